use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orrery_agent::executor::ExecutorSettings;
use orrery_proto::v1::ErrorType;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{has, open};
use crate::support::{failed, run, succeeded, supervised, value};

const PYTHON: &str = r#"
import os, sys
from . import helper

def seen(parameters):
    try:
        outside = open(parameters["secret"]).read()
    except OSError:
        outside = None
    return {"outside": outside, "user": os.getuid(), "helped": helper.WORD, "stdin": sys.stdin.read(), "name": __name__}

def forge(parameters):
    report = [arg for arg in open("/proc/self/cmdline").read().split("\0") if arg.endswith("report.json")][0]
    os.unlink(report)
    os.symlink(parameters["secret"], report)
    os._exit(0)
"#;

const NODE: &str = r#"
const fs = require("fs");
exports.seen = ({ secret }) => {
  let outside = null;
  try { outside = fs.readFileSync(secret, "utf8"); } catch {}
  return { outside, user: process.getuid(), stdin: fs.readFileSync(0, "utf8"), helped: require("./other").word };
};
"#;

/// Modules that any user can read, beside a file that any user can read too.
fn modules() -> (TempDir, ExecutorSettings) {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("in/jobs/daily.py", PYTHON),
        ("in/jobs/helper.py", "WORD = 'helped'"),
        ("in/mail.js", NODE),
        ("in/other.js", "exports.word = 'helped';"),
        (
            "in/modern.mjs",
            "import { word } from './other.js'; export const seen = () => ({ helped: word, at: import.meta.url.endsWith('modern.mjs') });",
        ),
        ("out/secret", r#"{"returned":"forged"}"#),
        ("out/race.py", "def who(p): return 'outside'"),
    ] {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        open(&path, 0o644);
        open(path.parent().unwrap(), 0o755);
    }
    for path in ["", "in", "out"] {
        open(&dir.path().join(path), 0o755);
    }
    let settings = ExecutorSettings { function_dirs: vec![dir.path().join("in")], ..supervised() };
    (dir, settings)
}

fn config(dir: &Path, level: &str, module: &str, function: &str) -> Value {
    let parameters = json!({"secret": dir.join("out/secret")});
    json!({"modulePath": module, "functionName": function, "parameters": parameters, "sandbox": {"level": level}})
}

#[tokio::test]
async fn functions_run_at_the_same_levels() {
    let (dir, settings) = modules();
    for level in ["none", "process", "container"] {
        if !has(&settings, "functions at a level", json!({"level": level})).await {
            continue;
        }
        for module in ["jobs.daily", "mail.js"] {
            let outcome = run(&settings, "function", config(dir.path(), level, module, "seen")).await;
            succeeded(&outcome);
            let whole = value(&outcome);
            let result = &whole["result"];
            assert_eq!((&result["helped"], &result["stdin"]), (&json!("helped"), &json!("")), "{level} {whole}");
            assert_eq!(result["outside"].is_null(), level != "none", "{level} {whole}");
            let contained_as = whole.get("metadata").map(|metadata| &metadata["sandbox"]["level"]);
            assert_eq!(contained_as, (level != "none").then_some(&json!(level)));
            let user = u64::from(rustix::process::getuid().as_raw());
            assert_eq!(result["user"] == json!(user), level == "none" || user != 0, "{level} {whole}");
        }
        let outcome = run(&settings, "function", config(dir.path(), level, "modern", "seen")).await;
        assert_eq!(value(&outcome)["result"], json!({"helped": "helped", "at": true}), "{level}");
    }
}

#[tokio::test]
async fn a_report_is_not_read_from_elsewhere() {
    let (dir, settings) = modules();
    for level in ["none", "process"] {
        if has(&settings, "a forged report", json!({"level": level})).await {
            let outcome = run(&settings, "function", config(dir.path(), level, "jobs.daily", "forge")).await;
            failed(&outcome, ErrorType::UserError, &["exited with code 0 before it returned"]);
            assert_eq!(outcome.result, None, "{level}");
        }
    }
}

/// The module is swapped for a link out of the directory and back all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_of_links_does_not_lead_out() {
    let (dir, settings) = modules();
    let inner = dir.path().join("in");
    std::fs::write(inner.join("race.py"), "def who(p): return 'inside'").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapping = {
        let (stop, outside) = (stop.clone(), dir.path().join("out/race.py"));
        let (module, kept, trap) = (inner.join("race.py"), inner.join("kept"), inner.join("trap"));
        std::thread::spawn(move || {
            std::os::unix::fs::symlink(outside, &trap).unwrap();
            while !stop.load(Ordering::Relaxed) {
                for (from, to) in [(&module, &kept), (&trap, &module), (&module, &trap), (&kept, &module)] {
                    std::fs::rename(from, to).unwrap();
                }
            }
        })
    };
    for _ in 0..40 {
        let outcome = run(&settings, "function", json!({"modulePath": "race.py", "functionName": "who"})).await;
        if let Some(result) = outcome.result {
            assert_eq!(result.text, r#"{"success":true,"result":"inside"}"#);
        }
    }
    stop.store(true, Ordering::Relaxed);
    swapping.join().unwrap();
}

#[tokio::test]
async fn a_path_with_nul_is_no_path() {
    let (dir, settings) = modules();
    for path in ["jobs/daily.py\0", "../out/race.py", "jobs/../../out/race.py", "/etc/passwd", "jobs\\daily"] {
        let outcome = run(&settings, "function", config(dir.path(), "none", path, "seen")).await;
        failed(&outcome, ErrorType::ValidationError, &["config.modulePath"]);
    }
}
