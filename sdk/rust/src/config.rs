//! The configs of the built-in job types: one reading of them for the server, which validates, and the agent, which runs.

mod fields;
mod sandbox;
mod shell;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use self::fields::{Fields, header_problem, url_problem};
pub use self::sandbox::{SandboxConfig, SandboxLevel};
pub use self::shell::{is_shell, shell_in, shell_problem};

/// The largest config, in bytes of its JSON text.
pub const MAX_CONFIG_BYTES: usize = 1024 * 1024;
/// The longest `timeout` of a config, in milliseconds: seven days.
pub const MAX_TIMEOUT_MS: u64 = 7 * 24 * 3600 * 1000;
/// The methods that an http job may use.
pub const HTTP_METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
/// The job types that this module knows.
pub const JOB_TYPES: [&str; 5] = ["http", "command", "shell", "python", "function"];

/// A field such as `config.url`, and what is wrong with it in one sentence for people.
pub type Problem = (String, String);

/// Calls a URL.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpConfig {
    /// Absolute, http or https.
    pub url: String,
    /// One of [`HTTP_METHODS`].
    pub method: String,
    /// Sent as they are; they win over the headers that the agent adds.
    pub headers: BTreeMap<String, String>,
    /// Any JSON but null. A string is sent as its characters, anything else as its JSON text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Box<RawValue>>,
    /// For the whole exchange, in milliseconds; 30000 where absent.
    pub timeout: u64,
    /// The status that means success; 200 where absent.
    pub expected_status_code: u16,
    /// Other statuses that are worth another attempt.
    pub retry_on_status_codes: Vec<u16>,
}

/// Runs a program.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandConfig {
    /// A path, or a name that is looked up in PATH.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where, with what environment, and for how long it runs.
    #[serde(flatten)]
    pub process: ProcessConfig,
}

/// Runs a text by `/bin/sh -c`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShellConfig {
    /// The text; given as `script` or as `command`.
    pub script: String,
    /// `$1`, `$2` and so on.
    pub args: Vec<String>,
    /// Where, with what environment, and for how long it runs.
    #[serde(flatten)]
    pub process: ProcessConfig,
}

/// Runs Python.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PythonConfig {
    /// What runs.
    #[serde(flatten)]
    pub source: PythonSource,
    /// `sys.argv[1:]`.
    pub args: Vec<String>,
    /// Where, with what environment, and for how long it runs.
    #[serde(flatten)]
    pub process: ProcessConfig,
}

/// What a python job runs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PythonSource {
    /// Source text.
    Script(String),
    /// A file's path, from the working directory.
    File(String),
}

/// What all jobs have that are a process.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessConfig {
    /// The agent's own where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// Added to what the agent hands on.
    pub environment: BTreeMap<String, String>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// How it is contained; the agent decides where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxConfig>,
}

/// Calls a function: a registered one, or one of a Python or Node module.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionConfig {
    /// The module, such as `reports.daily` or `lib/mailer.js`.
    pub module_path: String,
    /// The function in it.
    pub function_name: String,
    /// Any JSON; parameters of a run are laid over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Box<RawValue>>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// Told from the module's file name where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    /// How the process of a module's function is contained; the agent decides where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxConfig>,
}

/// What runs a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// `python3`.
    Python,
    /// `node`.
    Node,
}

/// Checks the config of a job type.
///
/// # Errors
/// Every problem found, each with its field.
pub fn validate(job_type: &str, config_json: &str) -> Result<(), Vec<Problem>> {
    match job_type {
        "http" => HttpConfig::parse(config_json).map(drop),
        "command" => CommandConfig::parse(config_json).map(drop),
        "shell" => ShellConfig::parse(config_json).map(drop),
        "python" => PythonConfig::parse(config_json).map(drop),
        "function" => FunctionConfig::parse(config_json).map(drop),
        other => Err(vec![("jobType".into(), format!("{other:?} is not known; use one of {}", JOB_TYPES.join(", ")))]),
    }
}

impl HttpConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// Every problem found, each with its field.
    pub fn parse(json: &str) -> Result<Self, Vec<Problem>> {
        let mut fields = Fields::read("http", json)?;
        let url = fields.required("url", "the address to call, such as https://example.com/hook");
        let method = fields.text("method").unwrap_or_else(|| "GET".into());
        let headers = fields.map("headers");
        let body = fields.json("body");
        let timeout = fields.timeout().unwrap_or(30_000);
        let expected = fields.take("expectedStatusCode", "a number from 100 to 599").unwrap_or(200);
        let retry_on: Vec<u16> =
            fields.take("retryOnStatusCodes", "a list of numbers from 100 to 599").unwrap_or_default();
        if !url.is_empty() {
            fields.check("url", url_problem(&url));
        }
        if !HTTP_METHODS.contains(&method.as_str()) {
            fields.problem("method", format!("{method:?} is not known; use one of {}", HTTP_METHODS.join(", ")));
        }
        for (name, value) in &headers {
            fields.check(&format!("headers.{name}"), header_problem(name, value));
        }
        if !(100..=599).contains(&expected) {
            fields.problem("expectedStatusCode", format!("must be from 100 to 599, not {expected}"));
        }
        if let Some(status) = retry_on.iter().find(|status| !(100..=599).contains(*status)) {
            fields.problem("retryOnStatusCodes", format!("must be from 100 to 599 each, not {status}"));
        }
        fields.finish(Self {
            url,
            method,
            headers,
            body,
            timeout,
            expected_status_code: expected,
            retry_on_status_codes: retry_on,
        })
    }
}

impl CommandConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// Every problem found, each with its field.
    pub fn parse(json: &str) -> Result<Self, Vec<Problem>> {
        let mut fields = Fields::read("command", json)?;
        let command = fields.required("command", "the program to run");
        let (args, process) = (fields.args(), fields.process());
        fields.finish(Self { command, args, process })
    }
}

impl ShellConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// Every problem found, each with its field.
    pub fn parse(json: &str) -> Result<Self, Vec<Problem>> {
        let mut fields = Fields::read("shell", json)?;
        let (_, script) = fields.either("script", "command", "the text for sh");
        let (args, process) = (fields.args(), fields.process());
        fields.finish(Self { script, args, process })
    }
}

impl PythonConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// Every problem found, each with its field.
    pub fn parse(json: &str) -> Result<Self, Vec<Problem>> {
        let mut fields = Fields::read("python", json)?;
        let source = match fields.either("script", "file", "the source text, or file, the path of a Python file") {
            (true, text) => PythonSource::Script(text),
            (false, path) => PythonSource::File(path),
        };
        let (args, process) = (fields.args(), fields.process());
        fields.finish(Self { source, args, process })
    }
}

impl FunctionConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// Every problem found, each with its field.
    pub fn parse(json: &str) -> Result<Self, Vec<Problem>> {
        let mut fields = Fields::read("function", json)?;
        let module_path = fields.required("modulePath", "the module that holds the function");
        let function_name = fields.required("functionName", "the function to call");
        let parameters = fields.json("parameters");
        let timeout = fields.timeout();
        let runtime = match fields.text("runtime").as_deref() {
            None => None,
            Some("python") => Some(Runtime::Python),
            Some("node") => Some(Runtime::Node),
            Some(other) => {
                fields.problem("runtime", format!("{other:?} is not known; use python or node"));
                None
            }
        };
        let sandbox = fields.sandbox();
        fields.finish(Self { module_path, function_name, parameters, timeout, runtime, sandbox })
    }
}
