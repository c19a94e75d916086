//! What of a config is secret: references, and sensitive fields.

use std::collections::BTreeSet;

use orrery_proto::v1::JobType;
use orrery_sdk::secret;

use super::problems::Problems;
use crate::secret::sensitive;

/// The paths of sensitive fields, each once. `kept` are the names of values that stay as they are stored; no other of their kind can be named.
pub(super) fn read(
    p: &mut Problems,
    (job_type, config): (JobType, &str),
    fields: &[String],
    kept: &BTreeSet<String>,
) -> Vec<String> {
    const REFERENCE: &str = "INVALID_SECRET_REFERENCE";
    const SENSITIVE: &str = "INVALID_SENSITIVE";
    match secret::find(job_type.as_json_str(), config) {
        Err(wrong) => wrong.iter().for_each(|(field, message)| p.add(REFERENCE, field, message.as_str())),
        Ok(found) => {
            let strange = |found: &&secret::Found| found.reference.is_sealed() && !kept.contains(&found.reference.name);
            for found in found.iter().filter(strange) {
                p.add(REFERENCE, &found.field, format!("{} is no reference that can be given", found.reference));
            }
        }
    }
    if fields.len() > sensitive::MAX_FIELDS {
        let message = format!("there are {}; at most {} are allowed", fields.len(), sensitive::MAX_FIELDS);
        p.add(SENSITIVE, "sensitive", message);
        return Vec::new();
    }
    let mut paths: Vec<String> = Vec::new();
    for field in fields {
        let path = sensitive::path(field);
        if paths.iter().any(|known| known == path) {
            continue;
        }
        if let Some(problem) = sensitive::problem(config, path, kept) {
            p.add(SENSITIVE, &format!("config.{path}"), problem);
        }
        paths.push(path.to_owned());
    }
    paths
}
