//! A device that has one fault, chosen when it is made.

use microseq_core::dev::Reference;
use microseq_core::{
    Accumulate, Attention, Backward, Batch, Device, Element, Flush, Forward, Gather, Host, KvMut, Mask, Pass,
    Problem, RowsMut, Scratch, Segment, Shape, ShapeError, Varlen,
};
use std::cell::Cell;

/// What is wrong with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    SkipsPadding,
    AlignsTopLeft,
    IgnoresWindow,
    IgnoresSoftcap,
    IgnoresScale,
    IsAlwaysCausal,
    GivesLseInBase2,
    ComputesIn8Bits,
    Overflows,
    WritesAroundOut,
    WritesAroundDq,
    WritesBetweenGradients,
    AddsZeroEverywhere,
    RefusesNoRows,
    TakesInNeighbours,
    DependsOnPosition,
    DependsOnTheCut,
    OverwritesGradients,
    TakesOpenRowsForZeros,
    RoundsTheStore,
    AddsPartialSums,
    IsNotDeterministic,
    GathersTheFirstShare,
    GathersZerosForInfinities,
    AccumulateOverwrites,
    FlushTruncates,
    WearsOut,
    KeepsOldMetadata,
    NeedsCleanScratch,
    NeedsAlignedScratch,
    TakesLittleScratch,
    TakesAnyType,
    WritesBeforeItChecks,
    WritesCopiesBeforeItChecks,
    HidesErrors,
}

/// Runs the reference document by document, which leaves room for faults between.
pub(crate) struct Faulty {
    fault: Fault,
    calls: Cell<usize>,
}

/// The metadata of [`Faulty`].
pub(crate) struct Prepared {
    attention: Attention,
    shape: Shape,
    segments: Vec<Segment>,
    zeroed_rows: usize,
    uses: Cell<usize>,
}

/// An error that may or may not say what is wrong.
#[derive(Debug)]
pub(crate) struct FaultyError {
    message: String,
}

impl From<ShapeError> for FaultyError {
    fn from(error: ShapeError) -> Self {
        Self { message: error.to_string() }
    }
}

impl std::fmt::Display for FaultyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for FaultyError {}

type Result<T> = std::result::Result<T, FaultyError>;

const SCRATCH_BYTES: usize = 64;

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Self {
        Self { fault, calls: Cell::new(0) }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// What the operands' own check found, and what the scratch's does.
    fn refuse(&self, checked: std::result::Result<(), ShapeError>, scratch: &[u8]) -> Result<()> {
        let any_type = |error: &ShapeError| matches!(error, ShapeError::DType { .. });
        let hide = |error: ShapeError| match self.fault {
            Fault::HidesErrors => FaultyError { message: "something is wrong".into() },
            _ => error.into(),
        };
        match checked {
            Err(error) if !(self.has(Fault::TakesAnyType) && any_type(&error)) => return Err(hide(error)),
            _ => {}
        }
        if scratch.len() < SCRATCH_BYTES && !self.has(Fault::TakesLittleScratch) {
            return Err(hide(ShapeError::Scratch { expected: SCRATCH_BYTES, given: scratch.len() }));
        }
        Ok(())
    }

    /// Whether what is in the scratch, or where it lies, changes the result.
    fn spoilt_by_scratch(&self, scratch: &[u8]) -> bool {
        self.has(Fault::NeedsCleanScratch) && scratch.iter().any(|&byte| byte != 0)
            || self.has(Fault::NeedsAlignedScratch) && !scratch.as_ptr().addr().is_multiple_of(4)
    }
}

/// The operator that the fault makes of a problem's.
fn operator(fault: Fault, attention: &Attention) -> Attention {
    let (heads, kv_heads, head_dim) = (attention.heads(), attention.kv_heads(), attention.head_dim());
    let mut operator = Attention::new(heads, kv_heads, head_dim).unwrap();
    let Mask { causal, window } = attention.mask();
    if !causal && fault != Fault::IsAlwaysCausal {
        operator = operator.non_causal();
    }
    if let (Some(window), true) = (window, fault != Fault::IgnoresWindow) {
        operator = operator.with_window(window.get()).unwrap();
    }
    if fault != Fault::IgnoresScale {
        operator = operator.with_scale(attention.scale()).unwrap();
    }
    if let (Some(softcap), true) = (attention.softcap(), fault != Fault::IgnoresSoftcap) {
        operator = operator.with_softcap(softcap).unwrap();
    }
    operator
}

impl Device for Faulty {
    type Space = Host;
    type Error = FaultyError;
    type Prepared = Prepared;

    fn prepare(&self, problem: &Problem<'_>) -> Result<Prepared> {
        if self.has(Fault::RefusesNoRows) && problem.batch().q_rows() == 0 {
            return Err(FaultyError { message: "no rows".into() });
        }
        let mut segments: Vec<Segment> = problem.batch().segments().collect();
        if self.has(Fault::AlignsTopLeft) {
            segments.iter_mut().for_each(|s| s.k_len = s.k_len.min(s.q_len));
        }
        Ok(Prepared {
            attention: operator(self.fault, problem.attention()),
            shape: problem.shape(),
            segments,
            zeroed_rows: problem.zeroed_rows(),
            uses: Cell::new(0),
        })
    }

    fn prepare_into(&self, problem: &Problem<'_>, prepared: &mut Prepared) -> Result<()> {
        let old = std::mem::replace(prepared, self.prepare(problem)?);
        if self.has(Fault::KeepsOldMetadata) && prepared.segments.len() < old.segments.len() {
            prepared.attention = old.attention;
        }
        Ok(())
    }

    fn scratch_bytes(&self, _: &Prepared, _: Pass) -> usize {
        SCRATCH_BYTES
    }

    fn gather_into<E: Element>(&self, mut operands: Gather<'_, '_, Host, E>) -> Result<()> {
        if self.has(Fault::WritesCopiesBeforeItChecks) {
            clear(&mut operands.into);
        }
        self.refuse(operands.check(), &[0; SCRATCH_BYTES])?;
        let mut into = operands.into;
        if self.has(Fault::GathersTheFirstShare) {
            clear(&mut into);
            let first = &operands.from[..operands.from.len().min(1)];
            let rows = first.iter().map(|share| share.k().layout().rows()).sum();
            let into = into.narrow(0..rows).unwrap();
            return Ok(Reference.gather_into(Gather { from: first, into })?);
        }
        Reference.gather_into(Gather { from: operands.from, into: into.reborrow() })?;
        if self.has(Fault::GathersZerosForInfinities) {
            each(&mut into, |x| *x = if x.to_f32().is_infinite() { E::from_f32(0.0) } else { *x });
        }
        Ok(())
    }

    fn forward<E: Element>(
        &self,
        prepared: &Prepared,
        mut operands: Forward<'_, Host, E>,
        scratch: Scratch<'_, Host>,
    ) -> Result<()> {
        if self.has(Fault::WritesBeforeItChecks) {
            fill(&mut operands.out, E::from_f32(0.0));
        }
        self.refuse(operands.check(&prepared.shape), scratch)?;
        if !self.has(Fault::SkipsPadding) {
            fill(&mut operands.out, E::from_f32(0.0));
            fill(&mut operands.lse, f32::NEG_INFINITY);
        }
        if self.has(Fault::WearsOut) && prepared.uses.replace(1) > 0 {
            return Ok(());
        }
        for segment in &prepared.segments {
            self.forward_segment(prepared, &mut operands, segment)?;
        }
        if self.spoilt_by_scratch(scratch) {
            each_row(&mut operands.lse, |x| *x += 1.0);
        }
        if self.has(Fault::WritesAroundOut) && operands.out.layout().offset() > 0 {
            operands.out.into_memory()[0] = E::from_f32(0.0);
        }
        Ok(())
    }

    fn backward<E: Element>(
        &self,
        prepared: &Prepared,
        mut operands: Backward<'_, Host, E>,
        scratch: Scratch<'_, Host>,
    ) -> Result<()> {
        if self.has(Fault::WritesBeforeItChecks) {
            fill(&mut operands.dq, E::from_f32(0.0));
        }
        self.refuse(operands.check(&prepared.shape), scratch)?;
        if !self.has(Fault::SkipsPadding) {
            fill(&mut operands.dq, E::from_f32(0.0));
        }
        if self.has(Fault::AddsZeroEverywhere) {
            each(&mut operands.dkv, |x| *x += 0.0);
        }
        for segment in &prepared.segments {
            self.backward_segment(prepared, &mut operands, segment)?;
        }
        if self.has(Fault::RoundsTheStore) {
            each(&mut operands.dkv, |x| *x = E::from_f32(*x).to_f32());
        }
        self.calls.set(self.calls.get() + 1);
        if self.has(Fault::IsNotDeterministic) && self.calls.get() % 3 == 2 {
            each(&mut operands.dkv, |x| *x = next_up(*x));
        }
        if self.has(Fault::WritesAroundDq) && operands.dq.layout().offset() > 0 {
            operands.dq.into_memory()[0] = E::from_f32(0.0);
        }
        if self.has(Fault::WritesBetweenGradients) {
            write_between(operands.dkv);
        }
        Ok(())
    }

    fn accumulate(&self, mut operands: Accumulate<'_, Host>) -> Result<()> {
        if self.has(Fault::WritesCopiesBeforeItChecks) {
            clear(&mut operands.into);
        }
        self.refuse(operands.check(), &[0; SCRATCH_BYTES])?;
        if self.has(Fault::AccumulateOverwrites) {
            clear(&mut operands.into);
        }
        Ok(Reference.accumulate(operands)?)
    }

    fn flush<E: Element>(&self, mut operands: Flush<'_, Host, E>) -> Result<()> {
        if self.has(Fault::WritesCopiesBeforeItChecks) {
            clear(&mut operands.into);
        }
        self.refuse(operands.check(), &[0; SCRATCH_BYTES])?;
        let Flush { from, mut into } = operands;
        Reference.flush(Flush { from: from.shorten(), into: into.reborrow() })?;
        if self.has(Fault::FlushTruncates) {
            let layout = from.k().layout();
            for row in 0..layout.rows() {
                for head in 0..layout.heads() {
                    let exact = from.k().get(row, head);
                    into.key_mut(row, head).iter_mut().zip(exact).for_each(|(x, exact)| truncate(x, *exact));
                }
            }
        }
        Ok(())
    }
}

impl Faulty {
    fn forward_segment<E: Element>(
        &self,
        prepared: &Prepared,
        operands: &mut Forward<'_, Host, E>,
        s: &Segment,
    ) -> Result<()> {
        let inner = alone(prepared, s);
        let mut out = operands.out.reborrow().narrow(s.q()).unwrap();
        let mut lse = operands.lse.reborrow().narrow(s.q()).unwrap();
        let own = Forward {
            q: operands.q.narrow(s.q()).unwrap().shorten(),
            kv: operands.kv.narrow(s.k()).unwrap().shorten(),
            out: out.reborrow(),
            lse: lse.reborrow(),
        };
        Reference.forward(&inner, own, &mut [])?;

        if self.has(Fault::Overflows) && lse.get_mut(0, 0)[0].abs() > 88.0 {
            fill(&mut out, E::from_f32(f32::NAN));
        }
        if self.has(Fault::GivesLseInBase2) {
            each_row(&mut lse, |x| *x *= std::f32::consts::LOG2_E);
        }
        if self.has(Fault::ComputesIn8Bits) {
            each_row(&mut out, |x| *x = E::from_f32((x.to_f32() * 64.0).round() / 64.0));
        }
        let moved = self.has(Fault::DependsOnPosition) && s.q_begin % 2 == 1
            || self.has(Fault::DependsOnTheCut) && s.q_len % 2 == 1;
        if moved {
            each_row(&mut lse, |x| *x = next_up(*x));
        }
        if self.has(Fault::TakesInNeighbours) && s.k_begin > 0 {
            let neighbour = operands.kv.v().get(s.k_begin - 1, 0)[0];
            each_row(&mut out, |x| *x = E::from_f32(x.to_f32() + 0.0 * neighbour.to_f32()));
        }
        Ok(())
    }

    fn backward_segment<E: Element>(
        &self,
        prepared: &Prepared,
        operands: &mut Backward<'_, Host, E>,
        s: &Segment,
    ) -> Result<()> {
        let inner = alone(prepared, s);
        let mut dkv = operands.dkv.reborrow().narrow(s.k()).unwrap();
        // What is known to hold zeros need not be read.
        let zeroed = s.k().end <= prepared.zeroed_rows
            || self.has(Fault::TakesOpenRowsForZeros) && prepared.zeroed_rows > 0;
        if zeroed || self.has(Fault::OverwritesGradients) {
            clear(&mut dkv);
        }
        let before = take(&mut dkv, self.has(Fault::AddsPartialSums));
        let own = Backward {
            q: operands.q.narrow(s.q()).unwrap().shorten(),
            kv: operands.kv.narrow(s.k()).unwrap().shorten(),
            out: operands.out.narrow(s.q()).unwrap().shorten(),
            lse: operands.lse.narrow(s.q()).unwrap().shorten(),
            dout: operands.dout.narrow(s.q()).unwrap().shorten(),
            dq: operands.dq.reborrow().narrow(s.q()).unwrap(),
            dkv: dkv.reborrow(),
        };
        Reference.backward(&inner, own, &mut [])?;
        let mut before = before.into_iter();
        each(&mut dkv, |x| *x += before.next().unwrap_or(0.0));
        Ok(())
    }
}

/// The reference's metadata of one document by itself.
fn alone(prepared: &Prepared, s: &Segment) -> <Reference as Device>::Prepared {
    let (q, k) = ([0, s.q_len as i32], [0, s.k_len as i32]);
    let batch = Batch::Varlen(Varlen::new(&q, &k, s.q_len, s.k_len).unwrap());
    Reference.prepare(&Problem::new(prepared.attention, batch, prepared.shape.dtype).unwrap()).unwrap()
}

/// The values, and zeros in their place; nothing where not asked to.
fn take(dkv: &mut KvMut<'_, Host, f32>, asked: bool) -> Vec<f32> {
    let mut values = vec![];
    if asked {
        each(dkv, |x| values.push(std::mem::take(x)));
    }
    values
}

fn each_row<T: microseq_core::Scalar>(rows: &mut RowsMut<'_, Host, T>, mut change: impl FnMut(&mut T)) {
    let layout = rows.layout();
    for row in 0..layout.rows() {
        for head in 0..layout.heads() {
            rows.get_mut(row, head).iter_mut().for_each(&mut change);
        }
    }
}

fn fill<T: microseq_core::Scalar>(rows: &mut RowsMut<'_, Host, T>, value: T) {
    each_row(rows, |x| *x = value);
}

fn each<T: microseq_core::Scalar>(kv: &mut KvMut<'_, Host, T>, mut change: impl FnMut(&mut T)) {
    let layout = kv.k_layout();
    for row in 0..layout.rows() {
        for head in 0..layout.heads() {
            kv.key_mut(row, head).iter_mut().for_each(&mut change);
            kv.value_mut(row, head).iter_mut().for_each(&mut change);
        }
    }
}

fn clear<T: microseq_core::Scalar>(kv: &mut KvMut<'_, Host, T>) {
    each(kv, |x| *x = T::default());
}

/// Writes behind the first head of the values, where there is a gap.
fn write_between(dkv: KvMut<'_, Host, f32>) {
    let layout = dkv.v_layout();
    let gap = layout.head_stride().min(layout.row_stride()) > layout.head_dim();
    if let (true, microseq_core::KvParts::Separate { v, .. }) = (gap && layout.rows() > 0, dkv.into_parts()) {
        v.into_memory()[layout.at(0, 0) + layout.head_dim()] = 0.0;
    }
}

fn next_up(x: f32) -> f32 {
    if x.is_finite() { x.next_up() } else { x }
}

/// Rounds towards zero where the reference rounded away from it.
fn truncate<E: Element>(x: &mut E, exact: f32) {
    if x.to_f32().abs() > exact.abs() && x.to_f32().is_finite() {
        let step = (x.to_f32() - exact) * 2.0;
        *x = E::from_f32(x.to_f32() - step);
    }
}
