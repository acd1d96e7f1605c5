//! Rank 1 fails in mid-step. What the others say and how all of it ends is checked by `ci/ranks`.

use crate::Process;
use crate::disagreements::{agreement, attention, gather, step};
use microseq::ranks::mpi::MpiRanks;
use microseq::{KvMut, Ranks, RowsMut};
use std::process::ExitCode;
use std::time::Duration;

/// The exit code of a rank that reported an error.
const REPORTED: u8 = 7;

pub(crate) fn run(process: Process, fault: &str) -> ExitCode {
    let fails = process.rank == 1;
    let mut group = process.group(&agreement(process.size)).unwrap();
    gather::<f32>(&mut group, &step(0), 0, attention()).unwrap();
    match fault {
        // Without MPI_Finalize, as a crash would.
        "exits" if fails => std::process::exit(3),
        // In a collective that the others are in as well.
        "aborts" if fails => die_meanwhile(&mut group),
        // In good order, but too early.
        "finalises" if fails => return ExitCode::SUCCESS,
        "hangs" if fails => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        "exits" | "aborts" | "finalises" | "hangs" => {}
        _ => panic!("no fault {fault}"),
    }
    group.set_timeout(Duration::from_secs(2));
    // A rank that dies in the first may still have given its rows.
    let first = gather::<f32>(&mut group, &step(1), 0, attention());
    let second = first.and_then(|()| gather::<f32>(&mut group, &step(2), 0, attention()));
    let error = second.expect_err("rank 1 has failed");
    println!("rank {} reports: {error}", process.rank);
    if fault == "hangs" {
        // A rank that hangs does not come to MPI_Finalize either.
        std::process::exit(REPORTED.into());
    }
    ExitCode::from(REPORTED)
}

fn die_meanwhile(group: &mut MpiRanks<'_>) {
    let layout = attention().kv_layout(5);
    let mut memory = vec![1.0f32; 200];
    let rows = KvMut::packed(RowsMut::of_slice(&mut memory, layout).unwrap()).unwrap();
    let _ = group.gather(0, &step(1), rows, || std::process::abort());
}
