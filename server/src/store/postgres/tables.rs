//! What each table is to the roles. **A new table is named here**, or nobody but the owner of the tables can reach it.

use super::isolation::{API, AUDIT, ENGINE, IDENTITY};

/// All that can be done with rows.
const ALL: &str = "select insert update delete";
const NOTHING: &str = "";

/// Whose the rows of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// Of the tenant in `tenant_id`.
    Tenant,
    /// Of the tenant in `tenant_id`; those without one may be read by all, and changed by none.
    TenantOrShared,
    /// Of the tenant in `id`.
    Itself,
    /// Of the execution in `execution_id`. Those of versions before this one have no `tenant_id`.
    Execution,
    /// Of no tenant.
    Nobody,
}

/// A table, and what the roles may do with its rows: with all of them, but for [`API`], which is bound to a tenant. Rights on columns are
/// written `select(one,other)`, the columns in the order of the alphabet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub name: &'static str,
    rows: Rows,
    api: &'static str,
    engine: &'static str,
    identity: &'static str,
    audit: &'static str,
}

/// What coordinators work on for all tenants, and callers for their own.
const fn queue(name: &'static str) -> Table {
    Table { name, rows: Rows::Tenant, api: ALL, engine: ALL, identity: NOTHING, audit: NOTHING }
}

/// What only coordinators work on.
const fn engine(name: &'static str) -> Table {
    Table { rows: Rows::Nobody, api: NOTHING, ..queue(name) }
}

/// Who callers are: asked before it is known whose tenant they are of.
const fn identity(name: &'static str) -> Table {
    Table { engine: NOTHING, identity: ALL, ..queue(name) }
}

/// What nobody but its tenant ever sees: no batch, no login.
const fn private(name: &'static str) -> Table {
    Table { engine: NOTHING, ..queue(name) }
}

/// What was done: whoever does something writes it down with it, its tenant reads it, and it is sealed by a role of its own. `write` is all that
/// those may who only write.
const fn record(name: &'static str, write: &'static str) -> Table {
    Table { api: "select insert", engine: write, identity: write, audit: "select insert delete", ..queue(name) }
}

/// What only the sealing of records works on. A tenant reads its own.
const fn seal(name: &'static str) -> Table {
    Table { api: "select", engine: NOTHING, audit: ALL, ..queue(name) }
}

/// Every table but the list of migrations. One that is not there yet, or no more, does no harm.
const TABLES: &[Table] = &[
    // Whoever suspends a tenant says so at its jobs.
    Table { identity: "select(id,tenant_id) update(tenant_suspended_at)", ..queue("scheduled_jobs") },
    queue("job_versions"),
    queue("lanes"),
    queue("live_executions"),
    queue("job_executions"),
    queue("fire_omissions"),
    queue("dead_letters"),
    queue("idempotency_keys"),
    queue("queue_limits"),
    // For coordinators of the version before.
    queue("tenant_limits"),
    queue("tenant_hours"),
    queue("execution_tallies"),
    queue("execution_tally_changes"),
    Table { rows: Rows::Execution, api: "select", ..queue("execution_logs") },
    engine("execution_log_sizes"),
    // Agents of all tenants are everybody's to see, and the deployment's to change.
    Table { rows: Rows::TenantOrShared, api: "select update", ..queue("agent_sessions") },
    Table { rows: Rows::TenantOrShared, engine: "select update", ..identity("agents") },
    Table { rows: Rows::TenantOrShared, ..identity("agent_join_tokens") },
    engine("coordinators"),
    engine("scheduler_locks"),
    engine("scheduler_metrics"),
    engine("cache_generation"),
    Table { rows: Rows::Itself, api: "select", engine: "select", ..identity("tenants") },
    identity("api_keys"),
    identity("users"),
    identity("user_sessions"),
    identity("refresh_tokens"),
    identity("roles"),
    identity("role_bindings"),
    // What keys there are, for all; no key is in it.
    Table { api: "select insert", ..engine("secret_keys") },
    private("secrets"),
    // Whose secrets are to be encrypted anew, and nothing of them.
    Table { engine: "select(key_id,tenant_id)", ..private("secret_versions") },
    record("audit_entries", "insert select(id,tenant_id)"),
    record("audit_unsealed", "insert"),
    // No seal is ever changed.
    Table { audit: "select insert delete", ..seal("audit_seals") },
    seal("audit_heads"),
    seal("audit_copies"),
];

/// The entry of a table.
pub(super) fn listed(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name == name)
}

/// The tenant that a transaction is bound to; null where it is to none. The setting is an empty text, and not absent, once it has been
/// set on a connection and ended with its transaction.
const BOUND: &str = "nullif(current_setting('orrery.tenant', true), '')::uuid";

/// A policy: its name, the role that it lets in, what it lets that role do, and with which rows. Whoever changes what one says changes its
/// name too: by their names it is known whether a table has those of this version.
type Policy = (&'static str, &'static str, &'static str, String);

impl Table {
    /// The rights of each role. A partition is reached by its parent, and by coordinators themselves.
    fn rights(&self, is_partition: bool) -> [(&'static str, &'static str); 4] {
        let api = if is_partition { NOTHING } else { self.api };
        [(API, api), (ENGINE, self.engine), (IDENTITY, self.identity), (AUDIT, self.audit)]
    }

    /// The role that may move rows from one partition to another.
    pub(super) fn mover(&self) -> &'static str {
        let movers = [(ENGINE, self.engine), (IDENTITY, self.identity)];
        movers.into_iter().find(|(_, may)| may.contains("delete")).map_or(AUDIT, |(role, _)| role)
    }

    /// Pairs of a role and what it may do, as the catalogue has them.
    pub(super) fn grants(&self, is_partition: bool) -> Vec<String> {
        let rights = self.rights(is_partition).into_iter();
        let mut grants: Vec<String> =
            rights.flat_map(|(role, may)| may.split_whitespace().map(move |right| format!("{role} {right}"))).collect();
        grants.sort_unstable();
        grants
    }

    /// The names of its policies.
    pub(super) fn policies(&self) -> Vec<String> {
        let mut names: Vec<String> = self.policies_of("t").iter().map(|(name, ..)| (*name).to_owned()).collect();
        names.sort_unstable();
        names
    }

    fn policies_of(&self, relation: &str) -> Vec<Policy> {
        // Migrations are the owner's, and what an administrator does by hand. The service never works as the owner.
        let mut policies = vec![("owner", "current_user", "all", "true".to_owned())];
        let everybody =
            [("engine", ENGINE, self.engine), ("identity", IDENTITY, self.identity), ("audit", AUDIT, self.audit)];
        let let_in = everybody.into_iter().filter(|(.., may)| !may.is_empty());
        policies.extend(let_in.map(|(name, role, _)| (name, role, "all", "true".to_owned())));
        if self.api.is_empty() {
            return policies;
        }
        let rows = match self.rows {
            Rows::Tenant | Rows::TenantOrShared => format!("tenant_id = {BOUND}"),
            Rows::Itself => format!("id = {BOUND}"),
            // Executions are looked for as this role sees them.
            Rows::Execution => format!(
                "tenant_id = {BOUND} or (tenant_id is null and (
                    exists (select 1 from live_executions e where e.id = {relation}.execution_id)
                    or exists (select 1 from job_executions h where h.id = {relation}.execution_id)))"
            ),
            Rows::Nobody => "true".to_owned(),
        };
        policies.push(("api", API, "all", rows));
        if self.rows == Rows::TenantOrShared {
            policies.push(("api_shared", API, "select", "tenant_id is null".to_owned()));
        }
        policies
    }

    /// Statements that make a relation what this table is to be: the table itself, or a partition of it. `had` are the policies that it has.
    pub(super) fn isolate(&self, relation: &str, is_partition: bool, had: &[String]) -> String {
        let mut statements = format!(
            "alter table {relation} enable row level security; alter table {relation} force row level security;
             revoke all on {relation} from public, {API}, {ENGINE}, {IDENTITY}, {AUDIT};\n"
        );
        for name in had {
            statements.push_str(&format!("drop policy if exists \"{}\" on {relation};\n", name.replace('"', "\"\"")));
        }
        for (name, role, command, rows) in self.policies_of(relation) {
            let policy = format!("create policy {name} on {relation} for {command} to {role} using ({rows});\n");
            statements.push_str(&policy);
        }
        for (role, may) in self.rights(is_partition).into_iter().filter(|(_, may)| !may.is_empty()) {
            let may = may.split_whitespace().collect::<Vec<_>>().join(", ");
            statements.push_str(&format!("grant {may} on {relation} to {role};\n"));
        }
        statements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_but_its_tenant_sees_what_is_private() {
        let secrets = private("secrets");
        let statements = secrets.isolate("secrets", false, &["old \"one\"".to_owned()]);
        assert!(statements.contains("force row level security"), "{statements}");
        assert!(statements.contains("drop policy if exists \"old \"\"one\"\"\" on secrets"), "{statements}");
        assert!(statements.contains(&format!("for all to {API} using (tenant_id = {BOUND})")), "{statements}");
        assert_eq!(secrets.policies(), ["api", "owner"]);
        let grants = ["delete", "insert", "select", "update"].map(|right| format!("{API} {right}"));
        assert_eq!(secrets.grants(false), grants);
        assert!(secrets.grants(true).is_empty());
    }

    #[test]
    fn each_table_is_named_once() {
        for (index, table) in TABLES.iter().enumerate() {
            assert!(TABLES[..index].iter().all(|other| other.name != table.name), "{}", table.name);
            assert!(!table.grants(false).is_empty(), "{}: nobody may use it", table.name);
        }
    }
}
