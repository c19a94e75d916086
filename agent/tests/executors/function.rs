use std::path::Path;

use orrery_agent::executor::{ExecutorSettings, executors};
use orrery_proto::Json;
use orrery_proto::v1::ErrorType;
use orrery_sdk::executor::{Outcome, StopReason};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Run, eventually, failed, run, runs, succeeded, supervised, task, value};

const PYTHON: &str = r#"
import asyncio, datetime, os, sys, time
from . import helper

def same(parameters):
    print("called")
    print("warned", file=sys.stderr)
    return parameters

def nothing():
    return helper.WORD

async def later(parameters):
    await asyncio.sleep(0.01)
    return parameters["a"]

def broken(parameters):
    raise ValueError("bad input: %r" % (parameters,))

def leave(parameters):
    sys.exit(3)

def die(parameters):
    os._exit(4)

def date(parameters):
    return datetime.date(2026, 1, 1)

def nan(parameters):
    return float("nan")

def long(parameters):
    return "x" * parameters

def report_of_call(parameters=None):
    with open("/proc/self/cmdline") as line:
        return line.read().split("\0")[-3]

def hang(parameters):
    print(os.getpid(), report_of_call(), flush=True)
    time.sleep(1000)

CONSTANT = 5
"#;

const NODE: &str = r#"
exports.same = (parameters) => { console.log("called"); setInterval(() => {}, 1000); return parameters; };
exports.later = async ({ a }) => { await new Promise((done) => setTimeout(done, 10)); return a; };
exports.broken = async () => { throw new RangeError("too far"); };
exports.string = () => { throw "just text"; };
exports.thrown = () => new Promise(() => setTimeout(() => { throw new Error("aside"); }, 1));
exports.nothing = () => {};
exports.big = () => 1n;
exports.constant = 5;
"#;

/// A directory with modules, beside it one that is not allowed.
fn modules() -> (TempDir, ExecutorSettings) {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("in/reports/daily.py", PYTHON);
    write("in/reports/helper.py", "WORD = 'helped'");
    write("in/package/__init__.py", "def f(p): return __name__");
    write("in/json.py", "def f(p): return 'mine'");
    write("in/with-dash.py", "def f(p): return 'dashed'");
    write("in/unreadable.py", "def f(:");
    write("in/missing.py", "import no_such_module_at_all");
    write("in/lib/mailer.js", NODE);
    write("in/lib/modern.mjs", "export function f(p) { return [p]; }\nexport default { g: () => 'g' };");
    write("out/secret.py", "def f(p): return 'secret'");
    std::os::unix::fs::symlink(dir.path().join("out/secret.py"), dir.path().join("in/link.py")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("out"), dir.path().join("in/linked")).unwrap();
    let dirs = vec![Path::new("/no/such/directory").to_owned(), dir.path().join("in")];
    (dir, ExecutorSettings { function_dirs: dirs, ..supervised() })
}

async fn call(settings: &ExecutorSettings, module: &str, function: &str, parameters: &str) -> Outcome {
    let config = format!(r#"{{"modulePath":"{module}","functionName":"{function}","parameters":{parameters}}}"#);
    run(settings, "function", config).await
}

#[track_caller]
fn returned(outcome: &Outcome, text: &str) {
    succeeded(outcome);
    assert_eq!(outcome.result.as_ref().unwrap().text, format!(r#"{{"success":true,"result":{text}}}"#));
}

#[test]
fn without_directories_there_are_no_functions() {
    let names = |settings| executors(settings).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(ExecutorSettings::default()), ["http", "command", "shell", "python"]);
    assert_eq!(names(modules().1), ["http", "command", "shell", "python", "function"]);
}

#[tokio::test]
async fn python_functions_return() {
    let (_dir, settings) = modules();
    let digits = r#"{"big":123456789012345678901234567890,"n":30000,"f":1.5,"s":"ü\u0001","l":[true,null]}"#;
    for module in ["reports.daily", "reports/daily", "reports/daily.py"] {
        returned(&call(&settings, module, "same", digits).await, digits);
    }
    returned(&call(&settings, "reports.daily", "nothing", "null").await, r#""helped""#);
    returned(&call(&settings, "reports.daily", "later", r#"{"a":7}"#).await, "7");
    returned(&call(&settings, "package", "f", "1").await, r#""package""#);
    returned(&call(&settings, "json", "f", "1").await, r#""mine""#);
    returned(&call(&settings, "with-dash", "f", "1").await, r#""dashed""#);
    let direct = ExecutorSettings { supervisor: None, ..settings };
    returned(&call(&direct, "reports.daily", "same", "[1]").await, "[1]");
}

#[tokio::test]
async fn what_a_function_prints_is_log_and_not_result() {
    let (_dir, settings) = modules();
    let run = Run::start(&settings, "function", task(json!({"modulePath": "reports.daily", "functionName": "same"})));
    let log = run.log.clone();
    let outcome = run.end().await;
    returned(&outcome, "null");
    assert_eq!(log.stdout(), "called\n");
    assert_eq!(log.bytes(orrery_proto::v1::LogStream::Stderr), b"warned\n");
    assert!(outcome.usage.memory_peak_mb.is_some());
}

#[tokio::test]
async fn parameters_of_a_run_are_laid_over() {
    let (_dir, settings) = modules();
    for (base, over, expected) in [
        (
            r#"{"a":1.0,"b":2}"#,
            r#"{"b":12345678901234567890123,"c":null}"#,
            r#"{"a":1.0,"b":12345678901234567890123,"c":null}"#,
        ),
        ("[1]", r#"{"b":1}"#, r#"{"b":1}"#),
        (r#"{"b":1}"#, "5", "5"),
        ("null", "5", "5"),
    ] {
        let config = format!(r#"{{"modulePath":"reports.daily","functionName":"same","parameters":{base}}}"#);
        let mut task = task(config);
        task.parameters = Some(Json::new(over));
        returned(&Run::start(&settings, "function", task).end().await, expected);
    }
}

#[tokio::test]
async fn exceptions_are_told_with_their_trace() {
    let (_dir, settings) = modules();
    let outcome = call(&settings, "reports.daily", "broken", "[1]").await;
    failed(&outcome, ErrorType::UserError, &["ValueError: bad input: [1]"]);
    let stack = outcome.failure.unwrap().stack;
    assert!(
        stack.contains("daily.py\", line ") && stack.contains("in broken") && !stack.contains("<string>"),
        "{stack}"
    );
    for (module, function, parts) in [
        ("reports.daily", "leave", ["SystemExit: 3"].as_slice()),
        ("reports.daily", "die", &["exited with code 4 before it returned"]),
        ("reports.daily", "date", &["TypeError: ", "not JSON serializable"]),
        ("reports.daily", "nan", &["ValueError: Out of range float"]),
        ("unreadable", "f", &["SyntaxError"]),
        ("missing", "f", &["ModuleNotFoundError: No module named 'no_such_module_at_all'"]),
        ("lib/mailer.js", "broken", &["RangeError: too far"]),
        ("lib/mailer.js", "string", &["just text"]),
        ("lib/mailer.js", "thrown", &["Error: aside"]),
        ("lib/mailer.js", "big", &["TypeError: ", "BigInt"]),
    ] {
        failed(&call(&settings, module, function, "1").await, ErrorType::UserError, parts);
    }
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let (_dir, settings) = modules();
    for (module, function, parts) in [
        ("reports.weekly", "f", ["config.modulePath", "reports.weekly", "reports/weekly.py"].as_slice()),
        ("reports.daily", "none", &["config.functionName", "reports/daily.py has no function 'none'"]),
        ("reports.daily", "CONSTANT", &["config.functionName"]),
        ("lib/mailer.js", "none", &["config.functionName", "lib/mailer.js exports no function"]),
        ("lib/mailer.js", "constant", &["config.functionName"]),
        ("lib/mailer.js", "toString", &["config.functionName"]),
        ("../out/secret.py", "f", &["config.modulePath", "without '..'"]),
        ("/etc/passwd", "f", &["config.modulePath", "is not allowed"]),
        ("reports//daily.py", "f", &["config.modulePath", "is not allowed"]),
        ("..out.secret", "f", &["config.modulePath", "not found"]),
        ("link", "f", &["config.modulePath", "leaves"]),
        ("linked.secret", "f", &["config.modulePath", "leaves"]),
    ] {
        failed(&call(&settings, module, function, "1").await, ErrorType::ValidationError, parts);
    }
    let config = json!({"modulePath": "lib/mailer.js", "functionName": "same", "runtime": "python"});
    failed(&run(&settings, "function", config).await, ErrorType::ValidationError, &["config.runtime"]);
}

#[tokio::test]
async fn a_result_has_a_largest_size() {
    let (_dir, mut settings) = modules();
    settings.max_result_bytes = 1_000;
    let outcome = call(&settings, "reports.daily", "long", "966").await;
    succeeded(&outcome);
    assert!(outcome.result.unwrap().text.len() <= 1_000);
    let outcome = call(&settings, "reports.daily", "long", "967").await;
    failed(&outcome, ErrorType::UserError, &["result is 969 bytes, more than 968"]);
}

#[tokio::test]
async fn node_functions_return() {
    let (_dir, settings) = modules();
    let digits = r#"{"n":30000,"f":1.5,"s":"ü\u0001","l":[true,null]}"#;
    for module in ["lib.mailer", "lib/mailer.js"] {
        returned(&call(&settings, module, "same", digits).await, digits);
    }
    returned(&call(&settings, "lib/mailer.js", "later", r#"{"a":[7]}"#).await, "[7]");
    returned(&call(&settings, "lib/mailer.js", "nothing", "1").await, "null");
    returned(&call(&settings, "lib/modern", "f", "1").await, "[1]");
    returned(&call(&settings, "lib/modern.mjs", "g", "1").await, r#""g""#);
}

#[tokio::test]
async fn a_cancelled_function_is_gone() {
    let (_dir, settings) = modules();
    let run = Run::start(&settings, "function", task(json!({"modulePath": "reports.daily", "functionName": "hang"})));
    let line = run.log.line().await;
    let pid = line.split(' ').next().unwrap();
    run.context.stop(StopReason::Cancelled);
    let outcome = run.end().await;
    failed(&outcome, ErrorType::SystemError, &["cancelled"]);
    eventually("it is gone", || !runs(pid)).await;
    assert_eq!(outcome.result.map(|json| json.text), None);
}

#[tokio::test]
async fn nothing_is_left_in_the_temporary_directory() {
    let (_dir, settings) = modules();
    let outcome = call(&settings, "reports.daily", "report_of_call", "1").await;
    let value = value(&outcome);
    let report = Path::new(value["result"].as_str().unwrap());
    assert!(report.ends_with("report.json") && !report.parent().unwrap().exists(), "{report:?}");
    let run = Run::start(&settings, "function", task(json!({"modulePath": "reports.daily", "functionName": "hang"})));
    let line = run.log.line().await;
    let (pid, report) = line.split_once(' ').unwrap();
    assert!(Path::new(report).parent().unwrap().exists());
    run.outcome.abort();
    eventually("it is gone", || !runs(pid) && !Path::new(report).parent().unwrap().exists()).await;
}
