//! A harness that reports tests of the GPU as ignored, with the reason, where there is none:
//! Rust's own cannot decide that at run time.

use libtest_mimic::{Arguments, Failed, Trial};
use microseq_cuda::{Cuda, CudaError};
use std::sync::OnceLock;

fn gpu() -> Result<Cuda, CudaError> {
    static GPU: OnceLock<Result<Cuda, CudaError>> = OnceLock::new();
    GPU.get_or_init(|| Cuda::new(0)).clone()
}

/// A test that needs a GPU; each has a stream of its own.
pub(crate) fn gpu_test(name: &str, test: impl FnOnce(Cuda) + Send + 'static) -> Trial {
    let kind = gpu().err().map(|error| format!("no GPU: {error}"));
    let ignored = kind.is_some();
    let trial = Trial::test(name, move || {
        let cuda = gpu().and_then(|cuda| cuda.with_new_stream()).map_err(|e| Failed::from(e.to_string()))?;
        test(cuda);
        Ok(())
    });
    trial.with_kind(kind.unwrap_or_default()).with_ignored_flag(ignored)
}

/// Runs tests and ends the program.
pub(crate) fn run(tests: Vec<Trial>) -> ! {
    let mut arguments = Arguments::from_args();
    // A GPU runs one thing at a time; several tests at once only take turns.
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, tests).exit()
}
