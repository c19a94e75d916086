use std::path::{Path, PathBuf};

use orrery_sdk::config::{Problem, Runtime};

use crate::sandbox::Beneath;

const PYTHON: [&str; 2] = [".py", "/__init__.py"];
const NODE: [&str; 5] = [".js", ".mjs", ".cjs", "/index.js", "/index.mjs"];

/// A module that a function may be called of.
#[derive(Debug)]
pub(super) struct Module {
    /// The allowed directory that it lies in.
    pub(super) root: PathBuf,
    /// Its file, without symlinks.
    pub(super) file: PathBuf,
    /// The same as a path that cannot leave the directory, whatever becomes of it until it is opened.
    pub(super) source: Beneath,
    pub(super) runtime: Runtime,
}

/// Finds a module such as `reports.daily`, `reports/daily.py` or `lib/mailer.js` in the first directory that has it, and nowhere else.
///
/// # Errors
/// Where the path leaves the directories, the module is in none of them, or its language is not the one that is asked for.
pub(super) fn resolve(dirs: &[PathBuf], path: &str, runtime: Option<Runtime>) -> Result<Module, Problem> {
    let wrong = |message: String| ("config.modulePath".to_owned(), message);
    if path.starts_with('/')
        || path.contains(['\0', '\\'])
        || path.split('/').any(|part| matches!(part, "" | "." | ".."))
    {
        let hint = "give a path within the agent's function directories, without '..', such as reports/daily.py";
        return Err(wrong(format!("{path:?} is not allowed; {hint}")));
    }
    let candidates = candidates(path, runtime);
    if candidates.is_empty() {
        return Err(("config.runtime".into(), format!("does not run {path:?}")));
    }
    for dir in dirs {
        // A directory that is not there has no modules.
        let Ok(root) = dir.canonicalize() else { continue };
        for (relative, runtime) in &candidates {
            let Ok(file) = root.join(relative).canonicalize() else { continue };
            if !file.is_file() {
                continue;
            }
            let Ok(within) = file.strip_prefix(&root) else {
                return Err(wrong(format!("{path:?} is a link that leaves the agent's function directory")));
            };
            let source = Beneath { root: root.clone(), file: within.to_owned() };
            return Ok(Module { root, file, source, runtime: *runtime });
        }
    }
    let tried: Vec<_> = candidates.iter().map(|(file, _)| file.as_str()).collect();
    Err(wrong(format!("{path:?} was not found in the agent's function directories; looked for {}", tried.join(", "))))
}

/// The files that a module's path may mean, best first.
fn candidates(path: &str, wanted: Option<Runtime>) -> Vec<(String, Runtime)> {
    let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
    let all: Vec<(String, Runtime)> = match extension {
        Some("py") => vec![(path.into(), Runtime::Python)],
        Some("js" | "mjs" | "cjs") => vec![(path.into(), Runtime::Node)],
        _ => {
            let base = path.replace('.', "/");
            let python = PYTHON.iter().map(|end| (format!("{base}{end}"), Runtime::Python));
            python.chain(NODE.iter().map(|end| (format!("{base}{end}"), Runtime::Node))).collect()
        }
    };
    all.into_iter().filter(|(_, runtime)| wanted.is_none_or(|wanted| wanted == *runtime)).collect()
}
