//! How messages are shown that carry secrets: without them.

use std::fmt;

use crate::v1::{Lease, PutSecretRequest, Work};

impl fmt::Debug for PutSecretRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PutSecretRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("job_id", &self.job_id)
            .field("job_name", &self.job_name)
            .field("tenant_id", &self.tenant_id)
            .field("executor", &self.executor)
            .field("config", &self.config)
            .field("timeout_ms", &self.timeout_ms)
            .field("secrets", &self.secrets.len())
            .finish()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("execution_id", &self.execution_id)
            .field("epoch", &self.epoch)
            .field("attempt", &self.attempt)
            .field("job_id", &self.job_id)
            .field("job_name", &self.job_name)
            .field("executor", &self.executor)
            .field("config", &self.config)
            .field("parameters", &self.parameters)
            .field("work", &self.work)
            .field("start_in_us", &self.start_in_us)
            .field("secrets", &self.secrets.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let secrets = [("NAME".to_owned(), "hunter22".to_owned())];
        let work = Work { secrets: secrets.clone().into(), ..Work::default() };
        let lease = Lease { secrets: secrets.into(), ..Lease::default() };
        let put = PutSecretRequest { name: "NAME".into(), value: "hunter22".into() };
        let shown = format!("{work:?} {lease:?} {put:?}");
        assert!(!shown.contains("hunter22") && shown.contains("NAME"), "{shown}");
    }
}
