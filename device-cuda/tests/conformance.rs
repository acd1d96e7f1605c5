//! The conformance suite of core on the first GPU of this machine. With MICROSEQ_TEST_TYPE the rules that go
//! through all types go through that one; those of another type then fail, having tested nothing.

mod common;

use common::gpu_test;
use microseq_core::DType;
use microseq_core::dev::conformance;
use microseq_cuda::CudaHarness;

fn main() {
    let rules = conformance::rules::<CudaHarness>();
    let harness = |cuda| match test_type() {
        None => CudaHarness::new(cuda),
        Some(only) => CudaHarness::of_type(cuda, only),
    };
    let tests = rules.into_iter().map(|rule| gpu_test(rule.name, move |cuda| (rule.check)(&harness(cuda))));
    common::run(tests.collect());
}

fn test_type() -> Option<DType> {
    let name = std::env::var("MICROSEQ_TEST_TYPE").ok()?;
    Some(
        [DType::F32, DType::F16, DType::Bf16]
            .into_iter()
            .find(|dtype| dtype.to_string() == name)
            .expect("MICROSEQ_TEST_TYPE is f32, f16 or bf16"),
    )
}
