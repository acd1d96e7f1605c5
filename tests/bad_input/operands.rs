//! Operands of attention, forward and backward: every operand with wrong rows, heads and head_dim,
//! elements of another type, too little scratch.

use crate::common::cpus;
use crate::kind::{Kind, assert_pattern, pattern};
use microseq::cpu::{CpuError, Isa};
use microseq::{
    Attention, Backward, DType, Device, Element, Forward, Host, KvMut, KvRef, Layout, Operand, Pass, Problem,
    RowsMut, RowsRef, ShapeError, Varlen, bf16, f16,
};

/// Elements of every buffer: more than any operand here needs.
const ROOM: usize = 1024;

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 8;
const Q_ROWS: usize = 7;
const K_ROWS: usize = 11;

/// The shape of an operand.
#[derive(Clone, Copy)]
pub(crate) struct Dims {
    pub(crate) rows: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}

impl Dims {
    pub(crate) fn read<E: Element>(self, memory: &[E]) -> RowsRef<'_, Host, E> {
        RowsRef::new(memory, Layout::dense(self.rows, self.heads, self.head_dim)).unwrap()
    }

    pub(crate) fn write<E: Element>(self, memory: &mut [E]) -> RowsMut<'_, Host, E> {
        RowsMut::new(memory, Layout::dense(self.rows, self.heads, self.head_dim)).unwrap()
    }

    /// Keys and values, each of this shape.
    pub(crate) fn read_kv<E: Element>(self, memory: &[E]) -> KvRef<'_, Host, E> {
        KvRef::packed(Self { heads: 2 * self.heads, ..self }.read(memory)).unwrap()
    }

    /// Keys and values, each of this shape.
    pub(crate) fn write_kv<E: Element>(self, memory: &mut [E]) -> KvMut<'_, Host, E> {
        KvMut::packed(Self { heads: 2 * self.heads, ..self }.write(memory)).unwrap()
    }
}

/// How an operand's shape goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    FewerRows,
    MoreRows,
    MoreHeads,
    SmallerHeadDim,
}

impl Change {
    pub(crate) const ALL: [Self; 4] =
        [Self::FewerRows, Self::MoreRows, Self::MoreHeads, Self::SmallerHeadDim];

    pub(crate) fn apply(self, dims: &mut Dims) {
        match self {
            Self::FewerRows => dims.rows -= 1,
            Self::MoreRows => dims.rows += 1,
            Self::MoreHeads => dims.heads += 1,
            Self::SmallerHeadDim => dims.head_dim -= 1,
        }
    }

    /// The error for an operand that has been changed, and was this before.
    pub(crate) fn error(self, operand: Operand, before: Dims) -> ShapeError {
        let mut after = before;
        self.apply(&mut after);
        match self {
            Self::FewerRows | Self::MoreRows => {
                ShapeError::Rows { operand, expected: before.rows, given: after.rows }
            }
            Self::MoreHeads => ShapeError::Heads { operand, expected: before.heads, given: after.heads },
            Self::SmallerHeadDim => {
                ShapeError::HeadDim { operand, expected: before.head_dim, given: after.head_dim }
            }
        }
    }
}

/// The operands of both passes, their shapes as they should be but for what a kind changes.
#[derive(Clone, Copy)]
struct Call {
    q: Dims,
    kv: Dims,
    out: Dims,
    lse: Dims,
    dout: Dims,
    dq: Dims,
    dkv: Dims,
    /// What is prepared.
    dtype: DType,
    /// Bytes of scratch that are missing.
    missing: usize,
}

impl Call {
    fn fitting(dtype: DType) -> Self {
        let q = Dims { rows: Q_ROWS, heads: HEADS, head_dim: HEAD_DIM };
        let kv = Dims { rows: K_ROWS, heads: KV_HEADS, head_dim: HEAD_DIM };
        let lse = Dims { head_dim: 1, ..q };
        Self { q, kv, out: q, lse, dout: q, dq: q, dkv: kv, dtype, missing: 0 }
    }

    fn dims(&mut self, operand: Operand) -> &mut Dims {
        match operand {
            Operand::Q => &mut self.q,
            Operand::K => &mut self.kv,
            Operand::Out => &mut self.out,
            Operand::Lse => &mut self.lse,
            Operand::Dout => &mut self.dout,
            Operand::Dq => &mut self.dq,
            Operand::Dk => &mut self.dkv,
            other => unreachable!("{other} is checked with its keys, or no operand of attention"),
        }
    }

    /// Runs a pass and checks that nothing was written if it was refused.
    fn run<E: Element>(&self, name: &str, pass: Pass) -> Result<(), CpuError> {
        match pass {
            Pass::Forward => self.forward::<E>(name),
            Pass::Backward => self.backward::<E>(name),
        }
    }

    fn forward<E: Element>(&self, name: &str) -> Result<(), CpuError> {
        let cpu = cpus::cpu(Isa::best(), 2);
        let prepared = cpu.prepare(&problem(self.dtype))?;
        let (q, kv) = (vec![E::default(); ROOM], vec![E::default(); ROOM]);
        let (mut out, mut lse) = (pattern::<E>(ROOM), pattern::<f32>(ROOM));
        let mut scratch = vec![0; cpu.scratch_bytes(&prepared, Pass::Forward) - self.missing];
        let operands = Forward {
            q: self.q.read(&q),
            kv: self.kv.read_kv(&kv),
            out: self.out.write(&mut out),
            lse: self.lse.write(&mut lse),
        };
        let result = cpu.forward(&prepared, operands, &mut scratch);
        if result.is_err() {
            assert_pattern(name, &out);
            assert_pattern(name, &lse);
        }
        result
    }

    fn backward<E: Element>(&self, name: &str) -> Result<(), CpuError> {
        let cpu = cpus::cpu(Isa::best(), 2);
        let prepared = cpu.prepare(&problem(self.dtype))?;
        let (read, lse) = (vec![E::default(); ROOM], vec![0.0; ROOM]);
        let (mut dq, mut dkv) = (pattern::<E>(ROOM), pattern::<f32>(ROOM));
        let mut scratch = vec![0; cpu.scratch_bytes(&prepared, Pass::Backward) - self.missing];
        let operands = Backward {
            q: self.q.read(&read),
            kv: self.kv.read_kv(&read),
            out: self.out.read(&read),
            lse: self.lse.read(&lse),
            dout: self.dout.read(&read),
            dq: self.dq.write(&mut dq),
            dkv: self.dkv.write_kv(&mut dkv),
        };
        let result = cpu.backward(&prepared, operands, &mut scratch);
        if result.is_err() {
            assert_pattern(name, &dq);
            assert_pattern(name, &dkv);
        }
        result
    }
}

/// Two documents, the second with more keys than queries.
pub(crate) fn problem(dtype: DType) -> Problem<'static> {
    let attention = Attention::new(HEADS, KV_HEADS, HEAD_DIM).unwrap();
    let varlen = Varlen::new(&[0, 4, 7], &[0, 4, 11], Q_ROWS, K_ROWS).unwrap();
    Problem::new(attention, varlen, dtype).unwrap()
}

const FORWARD: [Operand; 4] = [Operand::Q, Operand::K, Operand::Out, Operand::Lse];
const BACKWARD: [Operand; 7] =
    [Operand::Q, Operand::K, Operand::Out, Operand::Lse, Operand::Dout, Operand::Dq, Operand::Dk];

pub(crate) fn kinds() -> Vec<Kind> {
    for pass in [Pass::Forward, Pass::Backward] {
        let fitting = Call::fitting(DType::F32);
        assert_eq!(fitting.run::<f32>("fitting", pass), Ok(()), "{pass:?} of operands that fit");
    }
    [
        shapes(Pass::Forward, &FORWARD),
        shapes(Pass::Backward, &BACKWARD),
        types(Pass::Forward),
        types(Pass::Backward),
        scratch(Pass::Forward),
        scratch(Pass::Backward),
    ]
    .concat()
}

fn shapes(pass: Pass, operands: &[Operand]) -> Vec<Kind> {
    let pairs = operands.iter().flat_map(|&operand| Change::ALL.map(|change| (operand, change)));
    pairs.map(|(operand, change)| shape(pass, operand, change)).collect()
}

fn shape(pass: Pass, operand: Operand, change: Change) -> Kind {
    let name = format!("{pass:?}: {operand}: {change:?}");
    let mut call = Call::fitting(DType::F32);
    let before = *call.dims(operand);
    // An lse has no smaller head_dim to go wrong with.
    let (dims, expected) = match (operand, change) {
        (Operand::Lse, Change::SmallerHeadDim) => {
            (Dims { head_dim: 2, ..before }, ShapeError::HeadDim { operand, expected: 1, given: 2 })
        }
        _ => {
            let mut dims = before;
            change.apply(&mut dims);
            (dims, change.error(operand, before))
        }
    };
    *call.dims(operand) = dims;
    let result = call.run::<f32>(&name, pass);
    Kind::new(name, result, CpuError::Shape(expected))
}

fn types(pass: Pass) -> Vec<Kind> {
    vec![dtype::<f32>(pass, DType::Bf16), dtype::<f16>(pass, DType::F32), dtype::<bf16>(pass, DType::F16)]
}

fn dtype<E: Element>(pass: Pass, prepared: DType) -> Kind {
    let name = format!("{pass:?}: {} operands of a call prepared for {prepared}", E::DTYPE);
    let result = Call::fitting(prepared).run::<E>(&name, pass);
    Kind::new(name, result, CpuError::Shape(ShapeError::DType { expected: prepared, given: E::DTYPE }))
}

fn scratch(pass: Pass) -> Vec<Kind> {
    let cpu = cpus::cpu(Isa::best(), 2);
    let prepared = cpu.prepare(&problem(DType::F32)).unwrap();
    let expected = cpu.scratch_bytes(&prepared, pass);
    let kind = |name: &str, missing| {
        let name = format!("{pass:?}: {name}");
        let result = Call { missing, ..Call::fitting(DType::F32) }.run::<f32>(&name, pass);
        let error = ShapeError::Scratch { expected, given: expected - missing };
        Kind::new(name, result, CpuError::Shape(error))
    };
    vec![kind("scratch one byte short", 1), kind("no scratch", expected)]
}
