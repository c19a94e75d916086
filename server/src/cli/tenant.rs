//! `orrery tenant`: who shares the deployment.

use clap::{Args, Subcommand, ValueEnum};
use orrery_proto::v1::{
    CreateTenantRequest, GetTenantRequest, GetTenantUsageRequest, ListTenantsRequest, ListTenantsResponse,
    ResumeTenantRequest, SandboxLevel, SuspendTenantRequest, Tenant, TenantQuotas, TenantSettings, TenantUsage,
    UpdateTenantRequest,
};

use super::Context;
use super::exit::{Exit, Failure};
use super::output::{Output, instant};

#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Make a tenant. Its jobs may not use shells, unless --allow-shell says so.
    #[command(after_help = "Examples:
  orrery tenant create acme --max-executions-per-hour 50000 --min-sandbox process
  orrery tenant create acme --id 5e3f2c9e-0d6c-4f0e-9a83-0d5b9a1c7a11    # where tokens name it already")]
    Create(CreateArgs),
    /// List tenants, newest first.
    #[command(visible_alias = "ls")]
    List,
    /// Show a tenant, with what it has and uses.
    Get {
        /// Its id or name.
        tenant: String,
    },
    /// Change what is named of a tenant; the rest stays. It counts at all coordinators within three seconds.
    #[command(after_help = "Examples:
  orrery tenant set acme --weight 3 --max-concurrent 200
  orrery tenant set acme --max-jobs default --ip-allow 10.0.0.0/8,192.0.2.7
  orrery tenant set acme --ip-allow ''                                  # from anywhere again")]
    Set(SetArgs),
    /// Refuse a tenant's callers, and let nothing new of it run; what runs ends as it would have.
    Suspend {
        /// Its id or name.
        tenant: String,
        /// Why; its callers are told.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Let a tenant go on. What its jobs have missed is decided by the misfire policy of each.
    Resume {
        /// Its id or name.
        tenant: String,
    },
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What people call it: a-z, 0-9 and . _ @ + -
    name: String,
    /// Its id, where tokens name it already.
    #[arg(long)]
    id: Option<uuid::Uuid>,
    #[command(flatten)]
    values: Values,
}

#[derive(Debug, Args)]
pub struct SetArgs {
    /// Its id or name.
    tenant: String,
    /// Another name.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    values: Values,
}

/// What a tenant has; what is left out stays, or is the default.
#[derive(Debug, Args)]
pub(super) struct Values {
    /// More about it, for people.
    #[arg(long)]
    description: Option<String>,
    /// Its share of the agents while others wait as well, 1 to 1000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1000))]
    weight: Option<i32>,
    /// Jobs that it may have; 0 is no limit, `default` that of the deployment.
    #[arg(long, value_name = "N|default", value_parser = quota)]
    max_jobs: Option<Quota>,
    /// Executions that it may begin in an hour of the clock.
    #[arg(long, value_name = "N|default", value_parser = quota)]
    max_executions_per_hour: Option<Quota>,
    /// Executions that run at once.
    #[arg(long, value_name = "N|default", value_parser = quota)]
    max_concurrent: Option<Quota>,
    /// What one execution may print, in bytes.
    #[arg(long, value_name = "N|default", value_parser = quota)]
    max_log_bytes: Option<Quota>,
    /// The result of one execution, in bytes of JSON.
    #[arg(long, value_name = "N|default", value_parser = quota)]
    max_result_bytes: Option<Quota>,
    /// Whether its jobs may hand texts to a shell.
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    allow_shell: Option<bool>,
    /// The least sandbox of its processes.
    #[arg(long, value_enum)]
    min_sandbox: Option<Sandbox>,
    /// The only networks that its callers and agents may come from, separated by commas; empty: anywhere.
    #[arg(long, value_name = "NETWORKS")]
    ip_allow: Option<String>,
    /// What its http jobs may call beside public addresses, separated by commas.
    #[arg(long, value_name = "RULES")]
    egress_allow: Option<String>,
    /// What its http jobs may not call, separated by commas.
    #[arg(long, value_name = "RULES")]
    egress_deny: Option<String>,
}

/// A quota; `None`: the deployment's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quota(Option<i64>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sandbox {
    None,
    Process,
    Container,
}

fn quota(text: &str) -> Result<Quota, String> {
    if text == "default" {
        return Ok(Quota(None));
    }
    let number = text.parse().ok().filter(|number: &i64| *number >= 0);
    number.map(|number| Quota(Some(number))).ok_or_else(|| "give a number, 0 for no limit, or `default`".to_owned())
}

impl TenantCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { client, out } = context;
        match self {
            Self::Create(CreateArgs { name, id, values }) => {
                let id = id.map(|id| id.to_string()).unwrap_or_default();
                let tenant = values.of(Tenant { name, id, ..Tenant::default() })?;
                let Tenant { name, description, id, weight, quotas, settings, .. } = tenant;
                let request = CreateTenantRequest { name, description, id, weight, quotas, settings };
                told(client.create_tenant(request).await?, "is made", out)
            }
            Self::List => {
                let listed = list(context).await?;
                if out.json { Ok(out.json(&listed)?) } else { Ok(table(&listed.tenants, out)?) }
            }
            Self::Get { tenant } => {
                let tenant = find(context, &tenant).await?;
                if out.json {
                    return Ok(out.json(&tenant)?);
                }
                let usage = client.get_tenant_usage(GetTenantUsageRequest { id: tenant.id.clone() }).await?;
                Ok(card(&tenant, &usage, out)?)
            }
            Self::Set(SetArgs { tenant, name, values }) => {
                let stored = find(context, &tenant).await?;
                let name = name.unwrap_or_else(|| stored.name.clone());
                let Tenant { id, name, description, weight, quotas, settings, version, .. } =
                    values.of(Tenant { name, ..stored })?;
                let request = UpdateTenantRequest { id, name, description, weight, quotas, settings, version };
                told(client.update_tenant(request).await?, "is changed", out)
            }
            Self::Suspend { tenant, reason } => {
                let id = find(context, &tenant).await?.id;
                told(client.suspend_tenant(SuspendTenantRequest { id, reason }).await?, "is suspended", out)
            }
            Self::Resume { tenant } => {
                let id = find(context, &tenant).await?.id;
                told(client.resume_tenant(ResumeTenantRequest { id }).await?, "goes on", out)
            }
        }
    }
}

impl Values {
    /// A tenant with what is named here.
    fn of(self, tenant: Tenant) -> Result<Tenant, Failure> {
        let mut quotas = tenant.quotas.unwrap_or_default();
        let mut settings = tenant.settings.unwrap_or_default();
        let number = |quota: &mut Option<i64>, given: Option<Quota>| {
            if let Some(Quota(given)) = given {
                *quota = given;
            }
        };
        number(&mut quotas.max_jobs, self.max_jobs);
        number(&mut quotas.max_executions_per_hour, self.max_executions_per_hour);
        number(&mut quotas.max_log_bytes, self.max_log_bytes);
        number(&mut quotas.max_result_bytes, self.max_result_bytes);
        if let Some(Quota(given)) = self.max_concurrent {
            let number = given.map(i32::try_from).transpose();
            quotas.max_concurrent =
                number.map_err(|_| Failure::invalid("INVALID_USAGE", "--max-concurrent: is too large"))?;
        }
        let list = |entries: &mut Vec<String>, given: Option<String>| {
            if let Some(given) = given {
                let parts = given.split(',').map(str::trim).filter(|part| !part.is_empty());
                *entries = parts.map(str::to_owned).collect();
            }
        };
        list(&mut settings.ip_allow, self.ip_allow);
        list(&mut settings.egress_allow, self.egress_allow);
        list(&mut settings.egress_deny, self.egress_deny);
        settings.allow_shell = self.allow_shell.or(settings.allow_shell);
        if let Some(sandbox) = self.min_sandbox {
            settings.set_min_sandbox(match sandbox {
                Sandbox::None => SandboxLevel::None,
                Sandbox::Process => SandboxLevel::Process,
                Sandbox::Container => SandboxLevel::Container,
            });
        }
        Ok(Tenant {
            description: self.description.unwrap_or(tenant.description),
            weight: self.weight.unwrap_or(tenant.weight),
            quotas: Some(quotas),
            settings: Some(settings),
            ..tenant
        })
    }
}

/// A tenant that is given by id or name.
async fn find(context: &Context, tenant: &str) -> Result<Tenant, Failure> {
    if uuid::Uuid::try_parse(tenant).is_ok() {
        return Ok(context.client.get_tenant(GetTenantRequest { id: tenant.to_owned() }).await?);
    }
    let name = tenant.to_lowercase();
    match list(context).await?.tenants.into_iter().find(|found| found.name == name) {
        Some(found) => Ok(found),
        None => Err(Failure::new(Exit::NotFound, "TENANT_NOT_FOUND", format!("there is no tenant {tenant}"))),
    }
}

/// All tenants, page by page, as one answer.
async fn list(context: &Context) -> Result<ListTenantsResponse, Failure> {
    let mut all = ListTenantsResponse::default();
    loop {
        let request = ListTenantsRequest { page_size: 1000, page_token: all.next_page_token.clone() };
        let page = context.client.list_tenants(request).await?;
        all.tenants.extend(page.tenants);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

fn told(tenant: Tenant, what: &str, out: &Output) -> Result<(), Failure> {
    if out.json {
        return Ok(out.json(&tenant)?);
    }
    Ok(out.line(format!("the tenant {} ({}) {what}", tenant.name, tenant.id))?)
}

fn table(tenants: &[Tenant], out: &Output) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = tenants
        .iter()
        .map(|tenant| {
            vec![
                tenant.id.clone(),
                tenant.name.clone(),
                tenant.status().as_json_str().to_owned(),
                tenant.weight.to_string(),
                instant(tenant.created_at),
                tenant.description.clone(),
            ]
        })
        .collect();
    out.table(&["ID", "NAME", "STATUS", "WEIGHT", "CREATED", "DESCRIPTION"], &rows)
}

fn card(tenant: &Tenant, usage: &TenantUsage, out: &Output) -> std::io::Result<()> {
    let no_quotas = TenantQuotas::default();
    let no_settings = TenantSettings::default();
    let (quotas, settings) =
        (usage.quotas.as_ref().unwrap_or(&no_quotas), tenant.settings.as_ref().unwrap_or(&no_settings));
    let of = |used: i64, most: Option<i64>| match most.filter(|most| *most > 0) {
        Some(most) => format!("{used} of {most}"),
        None => format!("{used}, no limit"),
    };
    let most =
        |most: Option<i64>| most.filter(|most| *most > 0).map_or("no limit".to_owned(), |most| format!("{most} bytes"));
    let listed = |entries: &[String], none: &str| if entries.is_empty() { none.to_owned() } else { entries.join(", ") };
    let shell = settings.allow_shell.map_or("as the deployment says", |may| if may { "yes" } else { "no" });
    let rows = [
        ("id", tenant.id.clone()),
        ("name", tenant.name.clone()),
        ("description", tenant.description.clone()),
        ("status", tenant.status().as_json_str().to_owned()),
        ("suspended", instant(tenant.suspended_at)),
        ("reason", tenant.suspend_reason.clone()),
        ("weight", tenant.weight.to_string()),
        ("jobs", of(usage.jobs, quotas.max_jobs)),
        ("executions this hour", of(usage.executions_this_hour, quotas.max_executions_per_hour)),
        ("running", of(usage.running, quotas.max_concurrent.map(i64::from))),
        ("pending", usage.pending.to_string()),
        ("log of an execution", most(quotas.max_log_bytes)),
        ("result of an execution", most(quotas.max_result_bytes)),
        ("shells", shell.to_owned()),
        ("least sandbox", settings.min_sandbox().as_json_str().to_owned()),
        ("callers from", listed(&settings.ip_allow, "anywhere")),
        ("egress opened", listed(&settings.egress_allow, "-")),
        ("egress closed", listed(&settings.egress_deny, "-")),
    ];
    for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
        out.line(format!("{name:<24}{value}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        values: Values,
    }

    fn of(line: &str, tenant: Tenant) -> Tenant {
        let args = ["x"].into_iter().chain(line.split(' ').filter(|part| !part.is_empty()));
        Line::try_parse_from(args).unwrap().values.of(tenant).unwrap()
    }

    #[test]
    fn what_is_not_named_stays() {
        let quotas = TenantQuotas { max_jobs: Some(5), max_concurrent: Some(3), ..TenantQuotas::default() };
        let settings = TenantSettings {
            allow_shell: Some(true),
            ip_allow: vec!["10.0.0.0/8".into()],
            ..TenantSettings::default()
        };
        let before = Tenant { weight: 2, quotas: Some(quotas), settings: Some(settings), ..Tenant::default() };
        assert_eq!(of("", before.clone()), before);
        let after = of("--max-jobs default --max-concurrent 0 --allow-shell false --ip-allow= --weight 7", before);
        let quotas = after.quotas.unwrap();
        assert_eq!((quotas.max_jobs, quotas.max_concurrent, after.weight), (None, Some(0), 7));
        let settings = after.settings.unwrap();
        assert_eq!((settings.allow_shell, settings.ip_allow.len()), (Some(false), 0));
    }

    #[test]
    fn a_quota_is_a_number_or_the_default() {
        assert_eq!(quota("default"), Ok(Quota(None)));
        assert_eq!(quota("0"), Ok(Quota(Some(0))));
        for bad in ["", "-1", "none", "1.5"] {
            assert!(quota(bad).is_err(), "{bad}");
        }
    }
}
