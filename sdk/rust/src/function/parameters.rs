//! What a function is given: the job's parameters with those of the run over them, kept to the last digit.

use std::collections::BTreeMap;

use orrery_proto::Json;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// Two objects are joined field by field, the run's winning; anything else of the run takes the job's place.
pub(super) fn overlaid(job: Option<&str>, run: Option<&str>) -> Option<Json> {
    let (Some(below), Some(above)) = (job, run) else { return run.or(job).map(Json::new) };
    let (Ok(mut fields), Ok(over)) =
        (serde_json::from_str::<Fields<'_>>(below), serde_json::from_str::<Fields<'_>>(above))
    else {
        return Some(Json::new(above));
    };
    fields.extend(over);
    Json::of(&fields).ok().or_else(|| Some(Json::new(above)))
}

/// Reads the input. Where there are no parameters, a type that takes null gets it, and any other an object without fields.
pub(super) fn read<T: DeserializeOwned>(parameters: Option<&Json>) -> Result<T, String> {
    let read = match parameters {
        Some(json) => json.read(),
        None => serde_json::from_str("null").or_else(|_| serde_json::from_str("{}")),
    };
    read.map_err(|error| format!("the parameters do not fit the function: {error}"))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn the_run_lies_over_the_job() {
        let text = |job, run| overlaid(job, run).map(|json| json.text);
        assert_eq!(text(None, None), None);
        assert_eq!(text(Some("{\"a\":1}"), None), Some("{\"a\":1}".into()));
        assert_eq!(text(None, Some("[2]")), Some("[2]".into()));
        assert_eq!(
            text(Some("{\"a\":1.50,\"b\":{\"x\":1}}"), Some("{\"b\":{\"y\":2},\"c\":123456789012345678901234567890}")),
            Some("{\"a\":1.50,\"b\":{\"y\":2},\"c\":123456789012345678901234567890}".into())
        );
        assert_eq!(text(Some("{\"a\":1}"), Some("[2]")), Some("[2]".into()));
        assert_eq!(text(Some("[1]"), Some("{\"a\":2}")), Some("{\"a\":2}".into()));
    }

    #[test]
    fn absent_parameters_fit_what_needs_none() {
        #[derive(Debug, Deserialize)]
        struct Input {
            #[serde(default)]
            _depth: u32,
        }
        #[derive(Debug, Deserialize)]
        struct Needy {
            _region: String,
        }
        assert!(read::<()>(None).is_ok());
        assert_eq!(read::<Option<u32>>(None), Ok(None));
        assert!(read::<Input>(None).is_ok());
        let message = read::<Needy>(None).expect_err("region is missing");
        assert!(message.contains("missing field `_region`"), "{message}");
    }
}
