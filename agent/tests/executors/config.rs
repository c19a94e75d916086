use orrery_sdk::config::{MAX_CONFIG_BYTES, PythonConfig, ShellConfig, validate};

#[test]
fn what_is_right_passes() {
    let right = [
        (
            "http",
            r#"{"url":"https://example.com/a?b=c","method":"PATCH","headers":{"X-A":"b"},"body":{"n":1e999},"timeout":604800000,
            "expectedStatusCode":599,"retryOnStatusCodes":[503]}"#,
        ),
        ("http", r#"{"url":"HTTP://[::1]:80","body":null,"headers":null}"#),
        ("command", r#"{"command":"a","args":["","b"],"workingDirectory":"/","environment":{"A":""},"timeout":1}"#),
        ("command", r#"{"command":"a\\u0000"}"#),
        ("shell", r#"{"command":"a"}"#),
        ("shell", r#"{"script":"a","args":["b"]}"#),
        ("python", r#"{"file":"a.py"}"#),
        ("function", r#"{"modulePath":"a.b","functionName":"c","parameters":[1],"timeout":5,"runtime":"node"}"#),
    ];
    for (job_type, config) in right {
        assert_eq!(validate(job_type, config), Ok(()), "{config}");
    }
}

#[test]
fn what_is_wrong_names_its_field() {
    let wrong = [
        ("http", r#"{}"#, "config.url", "is missing"),
        ("http", r#"{"url":""}"#, "config.url", "is empty"),
        ("http", r#"{"url":null}"#, "config.url", "is empty"),
        ("http", r#"{"url":5}"#, "config.url", "must be a string, not 5"),
        ("http", r#"{"url":"ftp://a"}"#, "config.url", "http://"),
        ("http", r#"{"url":"http://a b"}"#, "config.url", "space"),
        ("http", r#"{"url":"http:///x"}"#, "config.url", "no host"),
        ("http", r#"{"url":"https://user:pass@example.com/"}"#, "config.url", "Authorization"),
        ("http", r#"{"url":"http://a","method":"get"}"#, "config.method", "use one of GET, POST"),
        ("http", r#"{"url":"http://a","headers":{"a b":"c"}}"#, "config.headers.a b", "header"),
        ("http", r#"{"url":"http://a","headers":{"a":1}}"#, "config.headers.a", "must be a string, not 1"),
        ("http", r#"{"url":"http://a","headers":{"a":"b\nc"}}"#, "config.headers.a", "line break"),
        ("http", r#"{"url":"http://a","timeout":0}"#, "config.timeout", "from 1 to"),
        ("http", r#"{"url":"http://a","timeout":604800001}"#, "config.timeout", "7 days"),
        ("http", r#"{"url":"http://a","timeout":1.5}"#, "config.timeout", "whole number"),
        ("http", r#"{"url":"http://a","timeout":-1}"#, "config.timeout", "whole number"),
        ("http", r#"{"url":"http://a","expectedStatusCode":99}"#, "config.expectedStatusCode", "100 to 599"),
        ("http", r#"{"url":"http://a","retryOnStatusCodes":[600]}"#, "config.retryOnStatusCodes", "100 to 599"),
        ("http", r#"{"url":"http://a","body":{"x":["\u0000"]}}"#, "config.body", "NUL"),
        ("http", r#"{"url":"http://a","uri":1}"#, "config.uri", "is not a field of http jobs"),
        ("command", r#"{"command":"a\\\u0000"}"#, "config.command", "NUL"),
        ("command", r#"{"command":"a","args":"b"}"#, "config.args", "a list of strings"),
        ("command", r#"{"command":"a","environment":{"A=B":"c"}}"#, "config.environment.A=B", "'='"),
        ("command", r#"{"command":"a","workingDirectory":""}"#, "config.workingDirectory", "is empty"),
        ("shell", r#"{}"#, "config.script", "is missing"),
        ("shell", r#"{"script":"a","command":"b"}"#, "config.command", "beside script"),
        ("python", r#"{"script":"a","file":"b"}"#, "config.file", "beside script"),
        ("function", r#"{"modulePath":"a"}"#, "config.functionName", "is missing"),
        ("function", r#"{"modulePath":"a","functionName":"b","runtime":"perl"}"#, "config.runtime", "python or node"),
        ("command", "5", "config", "must be a JSON object"),
        ("command", "{", "config", "must be a JSON object"),
        ("command", "", "config", "is missing"),
        ("cobol", "{}", "jobType", "is not known"),
    ];
    for (job_type, config, field, part) in wrong {
        let problems = validate(job_type, config).expect_err(config);
        assert_eq!(problems.len(), 1, "{config}: {problems:?}");
        assert_eq!(problems[0].0, field, "{config}");
        assert!(problems[0].1.contains(part), "{config}: {problems:?}");
    }
    let problems = validate("http", r#"{"timeout":0,"method":"X","a":1}"#).unwrap_err();
    assert_eq!(problems.len(), 4, "all at once: {problems:?}");
}

#[test]
fn a_config_has_a_largest_size() {
    let of = |bytes: usize| format!(r#"{{"command":"{}"}}"#, "x".repeat(bytes - 14));
    assert_eq!(validate("command", &of(MAX_CONFIG_BYTES)), Ok(()));
    let problems = validate("command", &of(MAX_CONFIG_BYTES + 1)).unwrap_err();
    assert_eq!(problems[0].0, "config");
}

#[test]
fn configs_can_be_written_again() {
    let python = PythonConfig::parse(r#"{"file":"a.py","environment":{"A":"b"}}"#).unwrap();
    let text = serde_json::to_string(&python).unwrap();
    assert_eq!(text, r#"{"file":"a.py","args":[],"environment":{"A":"b"}}"#);
    let shell = ShellConfig::parse(r#"{"command":"x","timeout":5}"#).unwrap();
    assert_eq!(serde_json::to_string(&shell).unwrap(), r#"{"script":"x","args":[],"environment":{},"timeout":5}"#);
}
