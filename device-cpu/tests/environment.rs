//! `MICROSEQ_ISA`, each value in a process of its own: a variable cannot be set safely in one with threads.

use microseq_cpu::{Cpu, CpuError, Isa};
use std::ffi::OsStr;
use std::process::Command;

/// What the process that [`reports`] says.
const MARK: &str = "from the environment: ";

/// What a device of a process says that is given this value, or none.
fn reported(value: Option<&OsStr>) -> String {
    let mut process = Command::new(std::env::current_exe().expect("this is a program"));
    process.args(["--exact", "reports", "--ignored", "--nocapture"]).env_remove("MICROSEQ_ISA");
    if let Some(value) = value {
        process.env("MICROSEQ_ISA", value);
    }
    let output = process.output().expect("this program runs");
    assert!(output.status.success(), "{output:?}");
    let output = String::from_utf8(output.stdout).expect("text");
    let report = output.lines().find_map(|line| line.split_once(MARK)).expect("a report");
    report.1.to_string()
}

/// What [`reports`] prints of a result.
fn report(result: &Result<Isa, CpuError>) -> String {
    format!("{result:?}")
}

#[test]
#[ignore = "the other tests run it, in a process with the variable"]
fn reports() {
    println!("\n{MARK}{}", report(&Cpu::from_environment().map(|cpu| cpu.isa())));
}

#[test]
fn without_it_the_best_is_taken() {
    assert_eq!(reported(None), report(&Ok(Isa::best())));
}

#[test]
fn every_name_is_taken_or_refused_by_its_name() {
    for isa in Isa::ALL {
        let expected = if isa.available() { Ok(isa) } else { Err(CpuError::IsaUnavailable { isa }) };
        assert_eq!(reported(Some(isa.to_string().as_ref())), report(&expected));
    }
}

#[test]
fn other_names_are_errors() {
    for name in ["", "AVX2", "avx2 ", "sse"] {
        let expected = Err(CpuError::UnknownIsa { name: name.to_string() });
        assert_eq!(reported(Some(name.as_ref())), report(&expected));
    }
}

#[test]
#[cfg(unix)]
fn what_is_no_text_is_an_error_too() {
    use std::os::unix::ffi::OsStrExt;
    let expected = Err(CpuError::UnknownIsa { name: "avx\u{fffd}".to_string() });
    assert_eq!(reported(Some(OsStr::from_bytes(b"avx\xff"))), report(&expected));
}
