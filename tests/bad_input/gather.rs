//! Operands of gathering, accumulating and flushing.

use crate::common::cpus;
use crate::kind::{Kind, assert_pattern, pattern};
use crate::operands::{Change, Dims};
use microseq::cpu::{CpuError, Isa};
use microseq::{Accumulate, Device, Flush, Gather, Host, KvRef, Operand, ShapeError, bf16};

const ROOM: usize = 1024;
/// Rows 4 and 3, gathered into 7.
const SHARES: [Dims; 2] = [Dims { rows: 4, heads: 2, head_dim: 8 }, Dims { rows: 3, heads: 2, head_dim: 8 }];
const INTO: Dims = Dims { rows: 7, heads: 2, head_dim: 8 };

pub(crate) fn kinds() -> Vec<Kind> {
    assert_eq!(gather("fitting", &SHARES), Ok(()));
    assert_eq!(accumulate("fitting", INTO), Ok(()));
    assert_eq!(flush("fitting", INTO), Ok(()));
    [gathers(), pairs("accumulate", accumulate), pairs("flush", flush)].concat()
}

fn gathers() -> Vec<Kind> {
    let [first, second] = SHARES;
    let rows = |given| ShapeError::Rows { operand: Operand::From, expected: INTO.rows, given };
    let kind = |name: &str, shares: &[Dims], expected| {
        let name = format!("gather: {name}");
        let result = gather(&name, shares);
        Kind::new(name, result, CpuError::Shape(expected))
    };
    let changed = |dims: Dims, change: Change| {
        let mut after = dims;
        change.apply(&mut after);
        (after, change.error(Operand::From, dims))
    };
    let (wider, heads) = changed(first, Change::MoreHeads);
    let (smaller, head_dim) = changed(second, Change::SmallerHeadDim);
    vec![
        kind("no shares", &[], rows(0)),
        kind("a share missing", &[first], rows(4)),
        kind("a share twice", &[first, second, second], rows(10)),
        kind("a first share of more heads", &[wider, second], heads),
        kind("a second share of smaller head_dim", &[first, smaller], head_dim),
    ]
}

fn gather(name: &str, shares: &[Dims]) -> Result<(), CpuError> {
    let from = vec![0.0f32; ROOM];
    let mut into = pattern::<f32>(ROOM);
    let shares: Vec<KvRef<'_, Host, f32>> = shares.iter().map(|dims| dims.read_kv(&from)).collect();
    let result = cpu().gather_into(Gather { from: &shares, into: INTO.write_kv(&mut into) });
    if result.is_err() {
        assert_pattern(name, &into);
    }
    result
}

/// What is read, in every wrong shape.
fn pairs(call: &str, run: fn(&str, Dims) -> Result<(), CpuError>) -> Vec<Kind> {
    let kind = |change: Change| {
        let name = format!("{call}: {change:?}");
        let mut from = INTO;
        change.apply(&mut from);
        let result = run(&name, from);
        Kind::new(name, result, CpuError::Shape(change.error(Operand::From, INTO)))
    };
    Change::ALL.map(kind).to_vec()
}

fn accumulate(name: &str, from: Dims) -> Result<(), CpuError> {
    let memory = vec![0.0f32; ROOM];
    let mut into = pattern::<f32>(ROOM);
    let result = cpu().accumulate(Accumulate { from: from.read_kv(&memory), into: INTO.write_kv(&mut into) });
    if result.is_err() {
        assert_pattern(name, &into);
    }
    result
}

fn flush(name: &str, from: Dims) -> Result<(), CpuError> {
    let memory = vec![0.0f32; ROOM];
    let mut into = pattern::<bf16>(ROOM);
    let result = cpu().flush(Flush { from: from.read_kv(&memory), into: INTO.write_kv(&mut into) });
    if result.is_err() {
        assert_pattern(name, &into);
    }
    result
}

fn cpu() -> microseq::cpu::Cpu {
    cpus::cpu(Isa::best(), 2)
}
