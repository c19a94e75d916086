//! The calls on the audit log: search it, and ask whether it is as it was written.

use std::time::Duration;

use orrery_proto::Json;
use orrery_proto::v1::audit_service_server::AuditService;
use orrery_proto::v1::{
    self, AuditHead, AuditOutcome, AuditProblem, GetAuditEntryRequest, GetAuditHeadRequest, ListAuditEntriesRequest,
    ListAuditEntriesResponse, VerifyAuditRequest, VerifyAuditResponse,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::audit_check::{self, Part};
use super::page_token::{self, Listing, Scope, page};
use super::tenants::administers;
use super::{Api, convert, request};
use crate::audit::verify::Problem;
use crate::audit::{Head, Link, Place};
use crate::auth::{self, Principal};
use crate::error::{Error, Kind};
use crate::store::{AuditEntry, AuditFilter, AuditRow};

/// How long entries may wait to be sealed, where nothing is said.
const UNSEALED_MINUTES: i32 = 5;
const MAX_MINUTES: i32 = 7 * 24 * 60;

#[tonic::async_trait]
impl AuditService for Api {
    async fn list_audit_entries(
        &self,
        request: Request<ListAuditEntriesRequest>,
    ) -> Result<Response<ListAuditEntriesResponse>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let tenant = tenant(&principal, &message.tenant_id)?;
        let size = page_token::page_size(message.page_size, 50, 1000)?;
        let filter = filter(message.clone())?;
        let scope = Scope::new(Listing::Audit, &[&tenant.to_string(), &format!("{filter:?}")]);
        let page = page(&scope, &message.page_token, size)?;
        let mut found = self.store.audit_entries(tenant, &filter, &page).await.map_err(Error::from)?;
        let next_page_token = page_token::cut(&mut found, size, |row| scope.token(row.entry.id.as_bytes()));
        let entries = found.into_iter().map(shown).collect();
        Ok(Response::new(ListAuditEntriesResponse { entries, next_page_token }))
    }

    async fn get_audit_entry(
        &self,
        request: Request<GetAuditEntryRequest>,
    ) -> Result<Response<v1::AuditEntry>, Status> {
        let principal = auth::caller()?;
        let GetAuditEntryRequest { id, tenant_id } = request.into_inner();
        let tenant = tenant(&principal, &tenant_id)?;
        let id = request::id("id", &id)?;
        let found = self.store.audit_entry(tenant, id).await.map_err(Error::from)?;
        let unknown = || Error::new(Kind::NotFound, "AUDIT_ENTRY_NOT_FOUND", format!("there is no audit entry {id}"));
        Ok(Response::new(shown(found.ok_or_else(unknown)?)))
    }

    async fn get_audit_head(&self, request: Request<GetAuditHeadRequest>) -> Result<Response<AuditHead>, Status> {
        let principal = auth::caller()?;
        let tenant = tenant(&principal, &request.into_inner().tenant_id)?;
        let head = self.store.audit_head(tenant, Place::Head).await.map_err(Error::from)?;
        Ok(Response::new(
            head.map(shown_head).unwrap_or_else(|| AuditHead { tenant_id: tenant.to_string(), ..AuditHead::default() }),
        ))
    }

    async fn verify_audit(
        &self,
        request: Request<VerifyAuditRequest>,
    ) -> Result<Response<VerifyAuditResponse>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let tenant = tenant(&principal, &message.tenant_id)?;
        if message.after_sequence < 0 {
            return Err(Error::field("INVALID_ARGUMENT", "afterSequence", "is negative; give 0 or more").into());
        }
        if !(0..=MAX_MINUTES).contains(&message.unsealed_minutes) {
            let problem = format!("is out of range; give 0 to {MAX_MINUTES}");
            return Err(Error::field("INVALID_ARGUMENT", "unsealedMinutes", problem).into());
        }
        let minutes = if message.unsealed_minutes == 0 { UNSEALED_MINUTES } else { message.unsealed_minutes };
        let size = page_token::page_size(message.page_size, 20, 100)?;
        let part = Part {
            tenant,
            after: message.after_sequence,
            limit: i64::try_from(size).unwrap_or(i64::MAX),
            head: message.head.map(|head| read_head(&head)).transpose()?,
            unsealed_age: Duration::from_secs(60 * u64::from(minutes.unsigned_abs())),
        };
        let signer = self.authenticator.keyring().signer();
        let checked = audit_check::check(&self.store, &signer, &part).await.map_err(Error::from)?;
        Ok(Response::new(VerifyAuditResponse {
            seals: checked.seals,
            entries: checked.entries,
            problems: checked.problems.into_iter().map(shown_problem).collect(),
            next_sequence: checked.next,
            head: checked.head.map(shown_head),
        }))
    }
}

fn shown_head(head: Head) -> AuditHead {
    AuditHead {
        tenant_id: head.tenant.to_string(),
        sequence: head.link.sequence,
        hash: hex(&head.link.hash),
        entries: head.link.entries,
        at: convert::time(Some(head.at)),
        public_key: hex(&head.public_key),
        signature: hex(&head.signature),
    }
}

/// A head that was exported before.
fn read_head(message: &AuditHead) -> Result<Head, Error> {
    const CODE: &str = "INVALID_AUDIT_HEAD";
    let bytes = |field: &str, text: &str| {
        unhex(text).ok_or_else(|| Error::field(CODE, field, "is not in hexadecimal; give the head as it was exported"))
    };
    let hash = bytes("head.hash", &message.hash)?;
    let hash = hash.try_into().map_err(|_| Error::field(CODE, "head.hash", "is no SHA-256"))?;
    let at = request::instant(CODE, "head.at", message.at)?;
    Ok(Head {
        tenant: request::id("head.tenantId", &message.tenant_id)?,
        place: Place::Head,
        link: Link { sequence: message.sequence, hash, entries: message.entries },
        at: at.ok_or_else(|| Error::field(CODE, "head.at", "is missing; give the head as it was exported"))?,
        public_key: bytes("head.publicKey", &message.public_key)?,
        signature: bytes("head.signature", &message.signature)?,
    })
}

fn shown_problem(problem: Problem) -> AuditProblem {
    AuditProblem {
        code: problem.fault.code().to_owned(),
        sequence: problem.sequence,
        entry_id: problem.entry.map(|id| id.to_string()).unwrap_or_default(),
        message: problem.message,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// Whose log is meant.
///
/// # Errors
/// TENANT_NOT_FOUND where it is another tenant's, there or not, and the caller neither belongs to none nor administers tenants.
fn tenant(principal: &Principal, named: &str) -> Result<Uuid, Error> {
    let own = principal.tenant();
    let wanted = request::id_if_any("tenantId", named)?.unwrap_or(own);
    if wanted != own && principal.tenant_id.is_some() && !administers(principal) {
        return Err(Error::tenant_not_found(wanted));
    }
    Ok(wanted)
}

fn filter(message: ListAuditEntriesRequest) -> Result<AuditFilter, Error> {
    let text = |field: &str, text: String| {
        if text.contains('\0') {
            return Err(Error::field("INVALID_ARGUMENT", field, "has a NUL character; remove it"));
        }
        Ok(Some(text).filter(|text| !text.is_empty()))
    };
    let outcome = message.outcome.filter(|outcome| *outcome != 0).map(AuditOutcome::try_from).transpose();
    let outcome = outcome.map_err(|_| Error::field("INVALID_ARGUMENT", "outcome", "is not one of its values"))?;
    Ok(AuditFilter {
        actor: text("actor", message.actor)?,
        action: text("action", message.action)?,
        resource_type: text("resourceType", message.resource_type)?,
        resource_id: text("resourceId", message.resource_id)?,
        outcome,
        from: request::instant("INVALID_DATE_RANGE", "from", message.from)?,
        to: request::instant("INVALID_DATE_RANGE", "to", message.to)?,
    })
}

fn shown(row: AuditRow) -> v1::AuditEntry {
    let AuditEntry { id, at, author, deed, outcome } = row.entry;
    v1::AuditEntry {
        id: id.to_string(),
        at: convert::time(Some(at)),
        tenant_id: deed.tenant.to_string(),
        actor_kind: author.kind.clone(),
        actor_id: author.id.to_string(),
        actor_name: author.name.clone(),
        action: deed.action,
        resource_type: deed.resource.kind,
        resource_id: deed.resource.id,
        resource_name: deed.resource.name,
        outcome: outcome.into(),
        address: author.address.clone(),
        request_id: author.request_id.clone(),
        before: deed.before.map(Json::new),
        after: deed.after.map(Json::new),
        sealed: row.is_sealed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_their_digits() {
        assert_eq!(unhex(&hex(&[0, 9, 0xa0, 0xff])), Some(vec![0, 9, 0xa0, 0xff]));
        for bad in ["0", "0g", "é1"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_callers_of_the_deployment_name_another_tenant() {
        let caller = |tenant_id| Principal {
            kind: auth::PrincipalKind::Key,
            tenant_id,
            subject: Uuid::nil(),
            name: String::new(),
            roles: Vec::new(),
            permissions: auth::Permissions::All,
            tagged: Vec::new(),
        };
        let (own, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let asked = |of: Option<Uuid>, named: &str| tenant(&caller(of), named).map_err(|error| error.code);
        assert_eq!(asked(Some(own), ""), Ok(own));
        assert_eq!(asked(Some(own), &own.to_string()), Ok(own));
        for foreign in [other, Uuid::nil()] {
            assert_eq!(asked(Some(own), &foreign.to_string()), Err("TENANT_NOT_FOUND"));
            for deployment in [None, Some(auth::DEFAULT_TENANT)] {
                assert_eq!(asked(deployment, &foreign.to_string()), Ok(foreign));
            }
        }
    }
}
