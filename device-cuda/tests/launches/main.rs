//! What the device launches and how it fails, over a pretended driver: no GPU is needed, and a real one does
//! not fail when a test wants it to.

mod failures;
mod hopper;
mod others;
mod packed;
#[path = "../pretended/mod.rs"]
mod pretended;

fn main() {
    let tests = [failures::TESTS, hopper::TESTS, others::TESTS].concat();
    pretended::run(&tests, &[("MICROSEQ_CUDA_KERNELS", "wgmma")]);
}
