//! Runs tests over a pretended GPU (`gpu.c`), which is compiled here: machines with a compiler need no GPU
//! for them, and a real one does not fail when a test wants it to.

use libtest_mimic::{Arguments, Trial};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Says that this process finds the pretended libraries.
const MARK: &str = "MICROSEQ_PRETENDED_GPU";

pub(crate) type Test = (&'static str, fn());

/// Runs tests in an environment with these variables too.
pub(crate) fn run(tests: &[Test], environment: &[(&str, &str)]) {
    let error = match std::env::var_os(MARK) {
        Some(_) => None,
        None => Some(start_over(environment)),
    };
    let trials = tests.iter().map(|(name, test)| {
        let test = *test;
        let trial = Trial::test(*name, move || {
            test();
            Ok(())
        });
        match &error {
            Some(error) => trial.with_ignored_flag(true).with_kind(format!("not run: {error}")),
            None => trial,
        }
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit()
}

/// A function of the pretended GPU for tests.
pub(crate) fn pretend<T: Copy>(name: &str) -> T {
    // SAFETY: the library is loaded already, and stays.
    let library = unsafe { libloading::Library::new("libcuda.so.1") }.expect("the pretended one");
    // SAFETY: gpu.c defines it so; callers name its type.
    let function = *unsafe { library.get::<T>(name.as_bytes()) }.expect("gpu.c has it");
    std::mem::forget(library);
    function
}

/// Runs this program anew where its loader finds the pretended libraries. Returns where that fails.
fn start_over(environment: &[(&str, &str)]) -> String {
    let folder = match compile() {
        Ok(folder) => folder,
        Err(error) => return error,
    };
    let own = std::env::current_exe().expect("this program has a name");
    let paths = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let paths = std::env::join_paths([folder.clone()].into_iter().chain(std::env::split_paths(&paths)));
    let error = Command::new(own)
        .args(std::env::args_os().skip(1))
        .envs(environment.iter().copied())
        .env("LD_LIBRARY_PATH", paths.expect("folders without colons"))
        .env(MARK, &folder)
        .exec();
    format!("cannot start over: {error}")
}

fn compile() -> Result<PathBuf, String> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pretended-gpu");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pretended/gpu.c");
    // Under names of its own first: another process may be loading the ones of before.
    let made = folder.join(format!("made-by-{}", std::process::id()));
    let said = Command::new("cc")
        .args(["-O1", "-Wall", "-shared", "-fPIC", "-pthread", "-o"])
        .arg(&made)
        .arg(source)
        .output();
    let said = said.map_err(|error| format!("no C compiler: {error}"))?;
    if !said.status.success() {
        return Err(String::from_utf8_lossy(&said.stderr).into_owned());
    }
    for name in ["libnccl.so.2", "libcuda.so.1"] {
        let copy = folder.join(format!("{name}-by-{}", std::process::id()));
        std::fs::hard_link(&made, &copy).map_err(|error| error.to_string())?;
        std::fs::rename(copy, folder.join(name)).map_err(|error| error.to_string())?;
    }
    std::fs::remove_file(made).map_err(|error| error.to_string())?;
    Ok(folder)
}
