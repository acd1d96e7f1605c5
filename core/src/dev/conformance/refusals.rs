//! Operands that do not fit are an error that names what is wrong, before anything is written.

use super::common::{assert_names, operator};
use crate::dev::cases::Documents;
use crate::dev::harness::PreparedOf;
use crate::dev::run::watched::Watched;
use crate::dev::tensor::Tensor;
use crate::dev::{ErrorOf, Harness, SpaceOf};
use crate::{
    Accumulate, Attention, Backward, Device, Element, Flush, Forward, Gather, KvMut, KvRef, Layout, Operand,
    Pass, RowsMut, RowsRef, Shape, ShapeError, bf16, f16,
};
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

/// `[rows, heads, head_dim]`.
type Dims = [usize; 3];

/// An operand of dims that do not fit.
#[derive(Clone, Copy, Debug)]
struct Misfit {
    operand: Operand,
    /// Which of [`Dims`].
    dim: usize,
    /// One more than fits, or one less.
    more: bool,
}

impl Misfit {
    /// Every misfit of some operands.
    fn all(operands: &'static [Operand]) -> impl Iterator<Item = Self> {
        operands.iter().flat_map(|&operand| {
            let dims = (0..3).flat_map(|dim| [(dim, true), (dim, false)]);
            dims.map(move |(dim, more)| Self { operand, dim, more })
        })
    }

    fn apply(self, dims: Dims) -> Dims {
        let mut dims = dims;
        dims[self.dim] = if self.more { dims[self.dim] + 1 } else { dims[self.dim] - 1 };
        dims
    }

    /// Whether a view of such dims can be made at all.
    fn possible(self, dims: Dims) -> bool {
        self.apply(dims)[1..].iter().all(|&dim| dim > 0)
    }

    fn error(self, dims: Dims) -> ShapeError {
        let (operand, expected, given) = (self.operand, dims[self.dim], self.apply(dims)[self.dim]);
        match self.dim {
            0 => ShapeError::Rows { operand, expected, given },
            1 => ShapeError::Heads { operand, expected, given },
            _ => ShapeError::HeadDim { operand, expected, given },
        }
    }
}

/// What is wrong with a call.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    Operand(Misfit),
    /// The call was prepared for another element type.
    DType,
    /// A byte of scratch is missing.
    Scratch,
}

impl Wrong {
    fn dims(self, shape: &Shape, operand: Operand) -> Dims {
        let dims = dims(shape, operand);
        match self {
            Self::Operand(misfit) if misfit.operand == operand => misfit.apply(dims),
            _ => dims,
        }
    }
}

/// The dims that fit a call.
fn dims(shape: &Shape, operand: Operand) -> Dims {
    match operand {
        Operand::K | Operand::V | Operand::Dk | Operand::Dv => [shape.k_rows, shape.kv_heads, shape.head_dim],
        Operand::Lse => [shape.q_rows, shape.heads, 1],
        _ => [shape.q_rows, shape.heads, shape.head_dim],
    }
}

fn dense([rows, heads, head_dim]: Dims) -> Layout {
    Layout::dense(rows, heads, head_dim)
}

/// An input of ones.
fn input<H: Harness, T: Element>(harness: &H, dims: Dims) -> Watched<H, T> {
    let layout = dense(dims);
    Watched::new(harness, Tensor::filled(layout, T::from_f32(1.0), T::from_f32(1.0)))
}

/// An output of a value that nothing may change.
fn output<H: Harness, T: Element>(harness: &H, dims: Dims) -> Watched<H, T> {
    let layout = dense(dims);
    Watched::new(harness, Tensor::filled(layout, T::from_f32(-7.75), T::from_f32(-7.75)))
}

fn view<'a, H: Harness, T: Element>(harness: &H, placed: &'a Watched<H, T>) -> RowsRef<'a, SpaceOf<H>, T> {
    placed.view(harness).expect("a legal view")
}

fn view_mut<'a, H: Harness, T: Element>(
    harness: &H,
    output: &'a mut Watched<H, T>,
) -> RowsMut<'a, SpaceOf<H>, T> {
    output.view_mut(harness).expect("a legal view")
}

fn kv<'a, H: Harness, T: Element>(
    harness: &H,
    k: &'a Watched<H, T>,
    v: &'a Watched<H, T>,
) -> KvRef<'a, SpaceOf<H>, T> {
    KvRef::separate(view(harness, k), view(harness, v)).expect("views of one shape")
}

fn kv_mut<'a, H: Harness, T: Element>(
    harness: &H,
    k: &'a mut Watched<H, T>,
    v: &'a mut Watched<H, T>,
) -> KvMut<'a, SpaceOf<H>, T> {
    KvMut::separate(view_mut(harness, k), view_mut(harness, v)).expect("views of one shape")
}

/// The forward pass refuses operands of wrong rows, heads, head_dim and type, and too little
/// scratch; `out` and `lse` keep what they held.
pub fn forward_refuses_misfits<H: Harness>(harness: &H) {
    each_wrong(harness, Pass::Forward, &[Operand::Q, Operand::K, Operand::Out, Operand::Lse]);
}

/// The backward pass refuses operands of wrong rows, heads, head_dim and type, and too little
/// scratch; `dq`, `dk` and `dv` keep what they held.
pub fn backward_refuses_misfits<H: Harness>(harness: &H) {
    use Operand::{Dk, Dout, Dq, K, Lse, Out, Q};
    each_wrong(harness, Pass::Backward, &[Q, K, Out, Lse, Dout, Dq, Dk]);
}

fn each_wrong<H: Harness>(harness: &H, pass: Pass, operands: &'static [Operand]) {
    each_wrong_of::<H, f32, bf16>(harness, pass, operands);
    each_wrong_of::<H, f16, f32>(harness, pass, operands);
    each_wrong_of::<H, bf16, f16>(harness, pass, operands);
}

/// Prepares for `E`; `Other` is the wrong type.
fn each_wrong_of<H: Harness, E: Element, Other: Element>(
    harness: &H,
    pass: Pass,
    operands: &'static [Operand],
) {
    let Some(attention) = operator::<H, E>(harness) else { return };
    let call = Refused::new::<E>(harness, attention, pass);
    for misfit in Misfit::all(operands) {
        let dims = dims(&call.shape, misfit.operand);
        if misfit.possible(dims) {
            call.check::<E>(Wrong::Operand(misfit), misfit.error(dims));
        }
    }
    call.check::<Other>(Wrong::DType, ShapeError::DType { expected: E::DTYPE, given: Other::DTYPE });
    if call.scratch > 0 {
        let error = ShapeError::Scratch { expected: call.scratch, given: call.scratch - 1 };
        call.check::<E>(Wrong::Scratch, error);
    }
}

/// A prepared call, to be made wrongly.
struct Refused<'h, H: Harness> {
    harness: &'h H,
    pass: Pass,
    prepared: PreparedOf<H>,
    shape: Shape,
    scratch: usize,
}

impl<'h, H: Harness> Refused<'h, H> {
    fn new<E: Element>(harness: &'h H, attention: Attention, pass: Pass) -> Self {
        let documents = Documents::new(&[(4, 4), (3, 5)]);
        let problem = documents.problem::<E>(attention);
        let prepared = harness.device().prepare(&problem).unwrap_or_else(|e| panic!("prepare failed: {e}"));
        let scratch = harness.device().scratch_bytes(&prepared, pass);
        Self { harness, pass, prepared, shape: problem.shape(), scratch }
    }

    fn check<E: Element>(&self, wrong: Wrong, error: ShapeError) {
        let what = format!("{:?} with {wrong:?}", self.pass);
        let result = match self.pass {
            Pass::Forward => self.forward::<E>(wrong, &what),
            Pass::Backward => self.backward::<E>(wrong, &what),
        };
        assert_names(&what, result, error);
    }

    fn scratch(&self, wrong: Wrong) -> H::Buffer<u8> {
        let missing = usize::from(matches!(wrong, Wrong::Scratch));
        self.harness.upload(&vec![0u8; self.scratch - missing])
    }

    fn input<T: Element>(&self, wrong: Wrong, operand: Operand) -> Watched<H, T> {
        input(self.harness, wrong.dims(&self.shape, operand))
    }

    fn output<T: Element>(&self, wrong: Wrong, operand: Operand) -> Watched<H, T> {
        output(self.harness, wrong.dims(&self.shape, operand))
    }

    fn forward<E: Element>(&self, wrong: Wrong, what: &str) -> Result<(), ErrorOf<H>> {
        let harness = self.harness;
        let q: Watched<H, E> = self.input(wrong, Operand::Q);
        let [k, v]: [Watched<H, E>; 2] = [self.input(wrong, Operand::K), self.input(wrong, Operand::K)];
        let mut out: Watched<H, E> = self.output(wrong, Operand::Out);
        let mut lse: Watched<H, f32> = self.output(wrong, Operand::Lse);
        let mut scratch = self.scratch(wrong);
        let operands = Forward {
            q: view(harness, &q),
            kv: kv(harness, &k, &v),
            out: view_mut(harness, &mut out),
            lse: view_mut(harness, &mut lse),
        };
        let result = harness.device().forward(&self.prepared, operands, harness.view_mut(&mut scratch));
        harness.synchronise();
        out.assert_unchanged(harness, &format!("{what}: out"));
        lse.assert_unchanged(harness, &format!("{what}: lse"));
        result
    }

    fn backward<E: Element>(&self, wrong: Wrong, what: &str) -> Result<(), ErrorOf<H>> {
        let harness = self.harness;
        let q: Watched<H, E> = self.input(wrong, Operand::Q);
        let [k, v]: [Watched<H, E>; 2] = [self.input(wrong, Operand::K), self.input(wrong, Operand::K)];
        let out: Watched<H, E> = self.input(wrong, Operand::Out);
        let lse: Watched<H, f32> = self.input(wrong, Operand::Lse);
        let dout: Watched<H, E> = self.input(wrong, Operand::Dout);
        let mut dq: Watched<H, E> = self.output(wrong, Operand::Dq);
        let [mut dk, mut dv]: [Watched<H, f32>; 2] =
            [self.output(wrong, Operand::Dk), self.output(wrong, Operand::Dk)];
        let mut scratch = self.scratch(wrong);
        let operands = Backward {
            q: view(harness, &q),
            kv: kv(harness, &k, &v),
            out: view(harness, &out),
            lse: view(harness, &lse),
            dout: view(harness, &dout),
            dq: view_mut(harness, &mut dq),
            dkv: kv_mut(harness, &mut dk, &mut dv),
        };
        let result = harness.device().backward(&self.prepared, operands, harness.view_mut(&mut scratch));
        harness.synchronise();
        dq.assert_unchanged(harness, &format!("{what}: dq"));
        dk.assert_unchanged(harness, &format!("{what}: dk"));
        dv.assert_unchanged(harness, &format!("{what}: dv"));
        result
    }
}

const FITS: Dims = [6, 2, 8];

/// A gather refuses shares that do not fill its rows, or of other heads.
pub fn gather_refuses_misfits<H: Harness>(harness: &H) {
    let [rows, heads, head_dim] = FITS;
    let from = Operand::From;
    let cases: [(Vec<Dims>, ShapeError); 6] = [
        (vec![], ShapeError::Rows { operand: from, expected: rows, given: 0 }),
        (vec![[3, heads, head_dim]], ShapeError::Rows { operand: from, expected: rows, given: 3 }),
        (vec![FITS, [1, heads, head_dim]], ShapeError::Rows { operand: from, expected: rows, given: 7 }),
        (vec![[6, 1, head_dim]], ShapeError::Heads { operand: from, expected: heads, given: 1 }),
        (
            vec![[3, heads, head_dim], [3, heads, 9]],
            ShapeError::HeadDim { operand: from, expected: 8, given: 9 },
        ),
        (vec![[6, heads, 7]], ShapeError::HeadDim { operand: from, expected: head_dim, given: 7 }),
    ];
    for (shares, error) in cases {
        let what = format!("a gather of {shares:?} into {FITS:?}");
        gather_is_refused::<H, f32>(harness, &what, &shares, error);
        gather_is_refused::<H, f16>(harness, &what, &shares, error);
        gather_is_refused::<H, bf16>(harness, &what, &shares, error);
    }
}

fn gather_is_refused<H: Harness, E: Element>(harness: &H, what: &str, shares: &[Dims], error: ShapeError) {
    let placed: Vec<[Watched<H, E>; 2]> =
        shares.iter().map(|&dims| [input(harness, dims), input(harness, dims)]).collect();
    let from: Vec<_> = placed.iter().map(|[k, v]| kv(harness, k, v)).collect();
    let [mut k, mut v]: [Watched<H, E>; 2] = [output(harness, FITS), output(harness, FITS)];
    let operands = Gather { from: &from, into: kv_mut(harness, &mut k, &mut v) };
    let result = harness.device().gather_into(operands);
    harness.synchronise();
    k.assert_unchanged(harness, &format!("{what}: k"));
    v.assert_unchanged(harness, &format!("{what}: v"));
    assert_names(what, result, error);
}

/// An accumulation and a flush refuse two shapes that differ.
pub fn accumulate_and_flush_refuse_misfits<H: Harness>(harness: &H) {
    for misfit in Misfit::all(&[Operand::From]) {
        let dims = misfit.apply(FITS);
        let error = misfit.error(FITS);
        accumulate_is_refused(harness, dims, error);
        flush_is_refused::<H, f32>(harness, dims, error);
        flush_is_refused::<H, f16>(harness, dims, error);
        flush_is_refused::<H, bf16>(harness, dims, error);
    }
}

fn accumulate_is_refused<H: Harness>(harness: &H, dims: Dims, error: ShapeError) {
    let [k_from, v_from]: [Watched<H, f32>; 2] = [input(harness, dims), input(harness, dims)];
    let [mut k, mut v]: [Watched<H, f32>; 2] = [output(harness, FITS), output(harness, FITS)];
    let operands = Accumulate { from: kv(harness, &k_from, &v_from), into: kv_mut(harness, &mut k, &mut v) };
    let result = harness.device().accumulate(operands);
    harness.synchronise();
    let what: String = format!("an accumulation of {dims:?} into {FITS:?}");
    k.assert_unchanged(harness, &format!("{what}: k"));
    v.assert_unchanged(harness, &format!("{what}: v"));
    assert_names(&what, result, error);
}

fn flush_is_refused<H: Harness, E: Element>(harness: &H, dims: Dims, error: ShapeError) {
    let [k_from, v_from]: [Watched<H, f32>; 2] = [input(harness, dims), input(harness, dims)];
    let [mut k, mut v]: [Watched<H, E>; 2] = [output(harness, FITS), output(harness, FITS)];
    let operands = Flush { from: kv(harness, &k_from, &v_from), into: kv_mut(harness, &mut k, &mut v) };
    let result = harness.device().flush(operands);
    harness.synchronise();
    let what = format!("a flush of {dims:?} into {FITS:?}");
    k.assert_unchanged(harness, &format!("{what}: k"));
    v.assert_unchanged(harness, &format!("{what}: v"));
    assert_names(&what, result, error);
}
