//! The calls on roles, and on who has them.

use orrery_proto::v1::role_service_server::RoleService;
use orrery_proto::v1::{
    CreateRoleBindingRequest, CreateRoleRequest, DeleteRoleBindingRequest, DeleteRoleRequest, DeleteRoleResponse,
    GetRoleRequest, GranteeKind, ListRoleBindingsRequest, ListRoleBindingsResponse, ListRolesRequest,
    ListRolesResponse, Role, RoleBinding, UpdateRoleRequest,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::keys::permission_problems;
use super::page_token::{self, Listing, Scope, page};
use super::{Api, convert, request};
use crate::auth::{self, BUILT_IN, BuiltIn};
use crate::error::{Error, FieldProblem, Kind};
use crate::store::{self, BindingFilter, StoreError};

/// The most characters of a name, a description and a tag.
const NAME: usize = 63;
const DESCRIPTION: usize = 500;
const TAG: usize = 100;

#[tonic::async_trait]
impl RoleService for Api {
    async fn create_role(&self, request: Request<CreateRoleRequest>) -> Result<Response<Role>, Status> {
        let caller = auth::caller()?;
        let CreateRoleRequest { name, description, permissions } = request.into_inner();
        if let Some(problem) = name_problem(&name) {
            return Err(Error::fields(vec![problem]).into());
        }
        let permissions = allowed(&description, permissions)?;
        auth::may_give(&caller, &permissions, "")?;
        let now = self.store.now().await.map_err(Error::from)?;
        let role = store::Role {
            tenant_id: caller.tenant(),
            name,
            description,
            permissions,
            created_by: caller.subject,
            created_at: now,
            updated_at: now,
        };
        self.store.create_role(&role).await.map_err(Error::from)?;
        self.authenticator.forget_roles(caller.tenant());
        Ok(Response::new(convert_role(role)))
    }

    async fn list_roles(&self, request: Request<ListRolesRequest>) -> Result<Response<ListRolesResponse>, Status> {
        let tenant = auth::caller()?.tenant();
        let message = request.into_inner();
        let size = page_token::page_size(message.page_size, 50, 1000)?;
        let scope = Scope::new(Listing::Roles, &[&tenant.to_string()]);
        // Those that every tenant has come first, in their own order, before the names of the tenant's.
        let after = scope.position(&message.page_token)?.map(String::from_utf8).transpose();
        let after = after.map_err(|_| Error::field("INVALID_PAGE_TOKEN", "pageToken", "is not one of this list"))?;
        let made = after.as_deref().map(|after| after.strip_prefix('/').unwrap_or_default().to_owned());
        let begun = after.as_deref().and_then(|after| BUILT_IN.iter().position(|role| role.name == after));
        let skipped = if made.as_deref().is_some_and(|made| !made.is_empty()) {
            BUILT_IN.len()
        } else {
            begun.map_or(0, |at| at + 1)
        };
        let mut roles: Vec<Role> = BUILT_IN[skipped..].iter().map(convert_built_in).collect();
        if roles.len() <= size {
            let limit = i64::try_from(size + 1 - roles.len()).unwrap_or(1);
            let found = self.store.roles(tenant, &made.unwrap_or_default(), limit).await.map_err(Error::from)?;
            roles.extend(found.into_iter().map(convert_role));
        }
        let next_page_token = page_token::cut(&mut roles, size, |role| {
            let position = if role.built_in { role.name.clone() } else { format!("/{}", role.name) };
            scope.token(position.as_bytes())
        });
        Ok(Response::new(ListRolesResponse { roles, next_page_token }))
    }

    async fn get_role(&self, request: Request<GetRoleRequest>) -> Result<Response<Role>, Status> {
        let tenant = auth::caller()?.tenant();
        let name = request.into_inner().name;
        match auth::built_in(&name) {
            Some(role) => Ok(Response::new(convert_built_in(role))),
            None => Ok(Response::new(convert_role(self.find_role(tenant, &name).await?))),
        }
    }

    async fn update_role(&self, request: Request<UpdateRoleRequest>) -> Result<Response<Role>, Status> {
        let caller = auth::caller()?;
        let UpdateRoleRequest { name, description, permissions } = request.into_inner();
        not_built_in(&name)?;
        let permissions = allowed(&description, permissions)?;
        let before = self.find_role(caller.tenant(), &name).await?;
        // Nobody takes what they do not have either.
        auth::may_give(&caller, &before.permissions, "")?;
        auth::may_give(&caller, &permissions, "")?;
        let changed = self.store.change_role(caller.tenant(), &name, &description, &permissions).await;
        let changed = changed.map_err(of_role(&name))?;
        self.authenticator.forget_roles(caller.tenant());
        Ok(Response::new(convert_role(changed)))
    }

    async fn delete_role(&self, request: Request<DeleteRoleRequest>) -> Result<Response<DeleteRoleResponse>, Status> {
        let caller = auth::caller()?;
        let name = request.into_inner().name;
        not_built_in(&name)?;
        let role = self.find_role(caller.tenant(), &name).await?;
        auth::may_give(&caller, &role.permissions, "")?;
        self.store.delete_role(caller.tenant(), &name).await.map_err(of_role(&name))?;
        self.authenticator.forget_roles(caller.tenant());
        Ok(Response::new(DeleteRoleResponse { name, deleted: true }))
    }

    async fn create_role_binding(
        &self,
        request: Request<CreateRoleBindingRequest>,
    ) -> Result<Response<RoleBinding>, Status> {
        let caller = auth::caller()?;
        let message = request.into_inner();
        let kind = GranteeKind::try_from(message.principal_kind).ok().filter(|kind| *kind != GranteeKind::Unspecified);
        let Some(kind) = kind else {
            return Err(
                Error::field("INVALID_ARGUMENT", "principalKind", "is missing or unknown; give user or key").into()
            );
        };
        let principal_id = request::id("principalId", &message.principal_id)?;
        if message.tag.chars().count() > TAG || message.tag.chars().any(char::is_control) {
            let text = format!("give at most {TAG} characters, none of them control characters, as of a job's tags");
            return Err(Error::field("INVALID_TAGS", "tag", text).into());
        }
        let permissions = self.permissions_of_role(caller.tenant(), &message.role).await?;
        auth::may_give(&caller, &permissions, &message.tag)?;
        let binding = store::RoleBinding {
            id: Uuid::now_v7(),
            tenant_id: caller.tenant(),
            role: message.role,
            kind,
            principal_id,
            tag: message.tag,
            created_by: caller.subject,
            created_at: self.store.now().await.map_err(Error::from)?,
        };
        let is_made = auth::built_in(&binding.role).is_none();
        let bound = self.store.bind_role(&binding, is_made).await.map_err(of_role(&binding.role))?;
        self.authenticator.forget_roles(caller.tenant());
        Ok(Response::new(convert_binding(bound)))
    }

    async fn list_role_bindings(
        &self,
        request: Request<ListRoleBindingsRequest>,
    ) -> Result<Response<ListRoleBindingsResponse>, Status> {
        let tenant = auth::caller()?.tenant();
        let message = request.into_inner();
        let size = page_token::page_size(message.page_size, 50, 1000)?;
        let filter = BindingFilter {
            role: Some(message.role).filter(|role| !role.is_empty()),
            principal_id: request::id_if_any("principalId", &message.principal_id)?,
        };
        let scope = Scope::new(Listing::RoleBindings, &[&tenant.to_string(), &format!("{filter:?}")]);
        let page = page(&scope, &message.page_token, size)?;
        let mut found = self.store.role_bindings(tenant, &filter, &page).await.map_err(Error::from)?;
        let next_page_token = page_token::cut(&mut found, size, |binding| scope.token(binding.id.as_bytes()));
        let bindings = found.into_iter().map(convert_binding).collect();
        Ok(Response::new(ListRoleBindingsResponse { bindings, next_page_token }))
    }

    async fn delete_role_binding(
        &self,
        request: Request<DeleteRoleBindingRequest>,
    ) -> Result<Response<RoleBinding>, Status> {
        let caller = auth::caller()?;
        let id = request::id("id", &request.into_inner().id)?;
        let not_found = || {
            let message = format!("there is no binding {id}; orrery role bindings shows them");
            Error::new(Kind::NotFound, "ROLE_BINDING_NOT_FOUND", message)
        };
        let binding = self.store.role_binding(caller.tenant(), id).await.map_err(Error::from)?;
        let binding = binding.ok_or_else(not_found)?;
        let permissions = self.permissions_of_role(caller.tenant(), &binding.role).await?;
        auth::may_give(&caller, &permissions, &binding.tag)?;
        let gone = self.store.unbind_role(caller.tenant(), id).await.map_err(|error| match error {
            StoreError::NotFound => not_found(),
            other => other.into(),
        })?;
        self.authenticator.forget_roles(caller.tenant());
        Ok(Response::new(convert_binding(gone)))
    }
}

impl Api {
    async fn find_role(&self, tenant: Uuid, name: &str) -> Result<store::Role, Error> {
        self.store.role(tenant, name).await?.ok_or_else(|| role_not_found(name))
    }

    /// What a role allows, be it built in or made.
    async fn permissions_of_role(&self, tenant: Uuid, name: &str) -> Result<Vec<String>, Error> {
        match auth::built_in(name) {
            Some(role) => Ok(role.permissions()),
            None => Ok(self.find_role(tenant, name).await?.permissions),
        }
    }
}

fn role_not_found(name: &str) -> Error {
    Error::new(Kind::NotFound, "ROLE_NOT_FOUND", format!("there is no role {name}; orrery role list shows them"))
}

fn of_role(name: &str) -> impl FnOnce(StoreError) -> Error {
    let name = name.to_owned();
    move |error| match error {
        StoreError::NotFound => role_not_found(&name),
        other => other.into(),
    }
}

/// Built-in roles are what this version says.
fn not_built_in(name: &str) -> Result<(), Error> {
    match auth::built_in(name) {
        None => Ok(()),
        Some(_) => {
            let message = format!("the role {name} is built in and stays as it is; make one of your own from it");
            Err(Error::new(Kind::Conflict, "ROLE_BUILT_IN", message))
        }
    }
}

fn name_problem(name: &str) -> Option<FieldProblem> {
    let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    let message = if name.is_empty()
        || name.len() > NAME
        || !name.chars().all(is_good)
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
    {
        format!("give 1 to {NAME} of a-z, 0-9, - and _, a letter first")
    } else if auth::built_in(name).is_some() {
        "is that of a built-in role; choose another name".to_owned()
    } else {
        return None;
    };
    Some(FieldProblem { field: "name".to_owned(), code: "INVALID_NAME", message })
}

/// What a role is to allow, each permission once.
fn allowed(description: &str, mut permissions: Vec<String>) -> Result<Vec<String>, Error> {
    let mut problems = permission_problems(&permissions);
    if description.chars().count() > DESCRIPTION || description.chars().any(char::is_control) {
        let message = format!("give at most {DESCRIPTION} characters, none of them control characters");
        problems.push(FieldProblem { field: "description".to_owned(), code: "INVALID_DESCRIPTION", message });
    }
    if !problems.is_empty() {
        return Err(Error::fields(problems));
    }
    permissions.sort_unstable();
    permissions.dedup();
    Ok(permissions)
}

fn convert_built_in(role: &BuiltIn) -> Role {
    Role {
        name: role.name.to_owned(),
        description: role.description.to_owned(),
        permissions: role.permissions(),
        built_in: true,
        ..Role::default()
    }
}

fn convert_role(role: store::Role) -> Role {
    Role {
        name: role.name,
        description: role.description,
        permissions: role.permissions,
        built_in: false,
        created_at: convert::time(Some(role.created_at)),
        created_by: role.created_by.to_string(),
        updated_at: convert::time(Some(role.updated_at)),
    }
}

fn convert_binding(binding: store::RoleBinding) -> RoleBinding {
    RoleBinding {
        id: binding.id.to_string(),
        role: binding.role,
        principal_kind: binding.kind.into(),
        principal_id: binding.principal_id.to_string(),
        tag: binding.tag,
        created_at: convert::time(Some(binding.created_at)),
        created_by: binding.created_by.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_and_no_other_roles() {
        for good in ["a", "team-a_2", &"x".repeat(63)] {
            assert_eq!(name_problem(good), None, "{good}");
        }
        for bad in ["", "A", "1a", "-a", "a b", "a/b", "ä", "admin", "viewer", &"x".repeat(64)] {
            assert_eq!(name_problem(bad).map(|problem| problem.code), Some("INVALID_NAME"), "{bad}");
        }
    }
}
