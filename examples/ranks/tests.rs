use super::{Args, Job, threads};
use clap::Parser;

fn job(arguments: &[&str]) -> Job {
    let arguments = ["ranks"].iter().chain(arguments);
    Job::new(&Args::try_parse_from(arguments).expect("legal arguments")).expect("a legal job")
}

#[test]
fn threads_agree_with_one_rank() {
    let job = job(&["--lengths", "20,3,0,31", "--micro-sequence-length", "13"]);
    for ranks in 1..=4 {
        threads(&job, ranks).expect("the same bits");
    }
}

#[test]
fn no_ranks_are_refused() {
    let error = threads(&job(&["--lengths", "5"]), 0).expect_err("there is nobody");
    assert!(error.to_string().contains("the number of ranks is 0"), "{error}");
}

#[test]
fn a_comparison_finds_what_differs() {
    let job = job(&["--lengths", "9", "--micro-sequence-length", "4"]);
    let cpu =
        microseq::dev::HostHarness::new(microseq::cpu::Cpu::with_threads(1).expect("the calling thread"));
    let run = || super::rank::run(&cpu, &mut microseq::Alone::new(), &job).expect("one rank");
    let (expected, mut given) = (run(), run());
    assert!(job.compare(&given, &expected, 0, 2).expect("a rank").same_bits);
    let last = given.out.len() - 1;
    given.out[last] += 1.0;
    assert!(job.compare(&given, &expected, 0, 2).expect("a rank").same_bits, "not rank 0's row");
    assert!(!job.compare(&given, &expected, 1, 2).expect("a rank").same_bits);
}
