use clap::Args;

use super::{RunError, opened};
use crate::telemetry::LogArgs;

/// `orrery migrate`: brings a database's tables up to date, and ends.
#[derive(Clone, Debug, Args)]
pub struct MigrateArgs {
    /// postgres://USER:PASSWORD@HOST:PORT/DATABASE, or sqlite:PATH.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    #[command(flatten)]
    pub log: LogArgs,
}

/// Migrates. Several at once wait for one another.
///
/// # Errors
/// Where the database cannot be reached or migrated.
pub async fn run(args: MigrateArgs) -> Result<(), RunError> {
    let store = opened::open(&args.database_url, None, 2).await?;
    println!("the {} database is up to date", store.engine());
    Ok(())
}
