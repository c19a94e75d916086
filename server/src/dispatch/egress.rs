use std::sync::Arc;

use orrery_agent::egress::Rules;

/// What http jobs may call beside public addresses, by the server's word; agents bound it by their own.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    server: Arc<[String]>,
}

impl Egress {
    /// What the server opens to all tenants.
    pub fn new(server: &Rules) -> Self {
        Self { server: server.texts().collect() }
    }

    /// What is opened to every job.
    pub(super) fn rules(&self) -> &[String] {
        &self.server
    }
}
