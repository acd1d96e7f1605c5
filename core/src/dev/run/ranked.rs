//! One rank's part of a packed sequence, as a rank of a real group runs it.
//!
//! The gather of a step runs while its queries are made, the reduce of a sealed step while the step
//! before it runs backward.

use super::{Outcome, Placed, RunError, SequenceGradients, check_elements, poison, scratch};
use crate::dev::Harness;
use crate::dev::harness::{ErrorOf, PreparedOf, SpaceOf};
use crate::dev::run::Sequence;
use crate::{
    Attention, Backward, Device, Element, Forward, Gather, KvMut, KvRef, Layout, Problem, Ranks, Slot, Step,
};
use core::ops::Range;
use std::vec::Vec;
use thiserror::Error;

/// Why a rank's run failed; `D` is the device's error, `R` the transport's.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum RankedError<D: core::error::Error, R: core::error::Error> {
    /// On this rank alone.
    #[error(transparent)]
    Run(RunError<D>),
    /// Among the ranks.
    #[error("the ranks failed: {0}")]
    Ranks(#[source] R),
}

impl<D: core::error::Error, R: core::error::Error, T: Into<RunError<D>>> From<T> for RankedError<D, R> {
    fn from(error: T) -> Self {
        Self::Run(error.into())
    }
}

type Result<T, H, R> = core::result::Result<T, RankedError<ErrorOf<H>, <R as Ranks>::Error>>;

/// Runs this rank's shares of a sequence, of which every rank is given all inputs.
///
/// The outcome has rows for the whole sequence. This rank's own ([`Step::write_share`]) hold its
/// results; the others hold NaN, or in `dkv` anything.
///
/// # Errors
/// [`RankedError`]: as [`sequence`](super::sequence), and what goes wrong among the ranks.
pub fn ranked<H, R, E>(
    harness: &H,
    ranks: &mut R,
    inputs: &Sequence<'_, E>,
) -> Result<Outcome<E, SequenceGradients<E>>, H, R>
where
    H: Harness,
    R: Ranks<Space = SpaceOf<H>>,
    E: Element,
{
    let mut run = Run::new::<R>(harness, ranks.rank(), ranks.size(), inputs)?;
    run.forward(ranks)?;
    let dkv = match inputs.dout {
        Some(_) => Some(run.backward(ranks)?),
        None => None,
    };
    ranks.finish().map_err(RankedError::Ranks)?;
    harness.synchronise();
    let out = harness.download(&run.out.buffer);
    let lse = harness.download(&run.lse.buffer);
    let dq = harness.download(&run.dq.buffer);
    let gradients =
        dkv.map(|dkv: Placed<H, f32>| SequenceGradients { dq, dkv: harness.download(&dkv.buffer) });
    Ok(Outcome { out, lse, gradients })
}

/// This rank's share of a step.
struct Turn<'a, P> {
    step: Step<'a>,
    share: Step<'a>,
    prepared: P,
}

struct Run<'a, H: Harness, E: Element> {
    harness: &'a H,
    inputs: Sequence<'a, E>,
    slot: Slot,
    turns: Vec<Turn<'a, PreparedOf<H>>>,
    q_layout: Layout,
    kv_layout: Layout,
    /// The slot's K/V store.
    store: Placed<H, E>,
    /// Queries of each step's share.
    queries: Vec<Placed<H, E>>,
    /// What was projected, until the device has copied it.
    projected: Vec<Placed<H, E>>,
    out: Placed<H, E>,
    lse: Placed<H, f32>,
    dq: Placed<H, E>,
    scratch: H::Buffer<u8>,
}

impl<'a, H: Harness, E: Element> Run<'a, H, E> {
    fn new<R: Ranks>(
        harness: &'a H,
        rank: usize,
        size: usize,
        inputs: &Sequence<'a, E>,
    ) -> Result<Self, H, R> {
        let Sequence { plan, attention, q, kv, dout } = inputs;
        let (tokens, head_dim) = (plan.tokens(), attention.head_dim());
        let q_elements = tokens * attention.heads() * head_dim;
        check_elements::<H>("q", q.len(), q_elements)?;
        check_elements::<H>("kv", kv.len(), tokens * 2 * attention.kv_heads() * head_dim)?;
        check_elements::<H>("dout", dout.map_or(q_elements, <[E]>::len), q_elements)?;

        let turns = plan.steps().map(|step| turn::<H, E>(harness, step, attention, rank, size));
        let turns = turns.collect::<super::Result<Vec<_>, H>>()?;
        let scratch = scratch(harness, turns.iter().map(|turn| &turn.prepared));
        let (q_layout, kv_layout) = (attention.q_layout(tokens), attention.kv_layout(tokens));
        Ok(Self {
            harness,
            inputs: *inputs,
            slot: Slot::new(plan),
            turns,
            q_layout,
            kv_layout,
            store: Placed::filled(harness, kv_layout, poison()),
            queries: Vec::new(),
            projected: Vec::new(),
            out: Placed::filled(harness, q_layout, poison()),
            lse: Placed::filled(harness, attention.lse_layout(tokens), poison()),
            dq: Placed::filled(harness, q_layout, poison()),
            scratch,
        })
    }

    fn forward<R: Ranks<Space = SpaceOf<H>>>(&mut self, ranks: &mut R) -> Result<(), H, R> {
        let harness = self.harness;
        for turn in &self.turns {
            self.slot.forward(&turn.step)?;
            let rows = turn.share.rows();
            self.projected.push(part(harness, &self.kv_layout, self.inputs.kv, rows.clone()));
            put(harness, &self.projected[turn.step.index()], &mut self.store, rows.clone())?;

            let slot = KvMut::packed(self.store.rows_mut(harness)?)?.narrow(turn.step.write())?;
            let project = || part(harness, &self.q_layout, self.inputs.q, rows.clone());
            let q = ranks.gather(0, &turn.step, slot, project).map_err(RankedError::Ranks)?;

            let operands = Forward {
                q: q.rows(harness)?,
                kv: KvRef::packed(self.store.rows(harness)?)?.narrow(turn.share.window())?,
                out: self.out.rows_mut(harness)?.narrow(rows.clone())?,
                lse: self.lse.rows_mut(harness)?.narrow(rows)?,
            };
            let scratch = harness.view_mut(&mut self.scratch);
            harness.device().forward(&turn.prepared, operands, scratch).map_err(RunError::Device)?;
            self.queries.push(q);
        }
        Ok(())
    }

    fn backward<R: Ranks<Space = SpaceOf<H>>>(&mut self, ranks: &mut R) -> Result<Placed<H, f32>, H, R> {
        let harness = self.harness;
        let mut gradients = Placed::filled(harness, self.kv_layout, 0.0f32);
        // Until the device is done with them.
        let mut douts = Vec::new();
        let turns = core::mem::take(&mut self.turns);
        for (before, turn) in (0..turns.len()).map(|n| (n.checked_sub(1), &turns[n])).rev() {
            if turn.step.index() + 1 == turns.len() {
                let store = KvMut::packed(gradients.rows_mut(harness)?)?;
                self.backward_of(turn, store, &mut douts)?;
            }
            let store = KvMut::packed(gradients.rows_mut(harness)?)?;
            let (open, sealed) = store.split(turn.step.write().start)?;
            let sealed = sealed.narrow(0..turn.step.write().len())?;
            let done = ranks.reduce(0, &turn.step, sealed, || match before {
                Some(before) => self.backward_of(&turns[before], open, &mut douts),
                None => Ok(()),
            });
            done.map_err(RankedError::Ranks)??;
        }
        ranks.finish().map_err(RankedError::Ranks)?;
        harness.synchronise();
        self.turns = turns;
        Ok(gradients)
    }

    /// The backward of a share, into the rows of the gradient store that are open.
    fn backward_of(
        &mut self,
        turn: &Turn<'a, PreparedOf<H>>,
        mut open: KvMut<'_, SpaceOf<H>, f32>,
        douts: &mut Vec<Placed<H, E>>,
    ) -> super::Result<(), H> {
        let harness = self.harness;
        self.slot.backward(&turn.step)?;
        let (rows, window) = (turn.share.rows(), turn.share.window());
        douts.push(part(harness, &self.q_layout, self.inputs.dout.unwrap_or_default(), rows.clone()));
        let dout = &douts[douts.len() - 1];
        let operands = Backward {
            q: self.queries[turn.step.index()].rows(harness)?,
            kv: KvRef::packed(self.store.rows(harness)?)?.narrow(window.clone())?,
            out: self.out.rows(harness)?.narrow(rows.clone())?,
            lse: self.lse.rows(harness)?.narrow(rows.clone())?,
            dout: dout.rows(harness)?,
            dq: self.dq.rows_mut(harness)?.narrow(rows)?,
            dkv: open.reborrow().narrow(window)?,
        };
        let scratch = harness.view_mut(&mut self.scratch);
        harness.device().backward(&turn.prepared, operands, scratch).map_err(RunError::Device)
    }
}

fn turn<'a, H: Harness, E: Element>(
    harness: &H,
    step: Step<'a>,
    attention: &Attention,
    rank: usize,
    size: usize,
) -> super::Result<Turn<'a, PreparedOf<H>>, H> {
    let share = step.share(rank, size)?;
    let problem = Problem::new(*attention, share, E::DTYPE)?;
    let prepared = harness.device().prepare(&problem).map_err(RunError::Device)?;
    Ok(Turn { step, share, prepared })
}

/// Some rows of a dense tensor of the whole sequence, in memory of their own.
fn part<H: Harness, E: Element>(
    harness: &H,
    whole: &Layout,
    elements: &[E],
    rows: Range<usize>,
) -> Placed<H, E> {
    let layout = Layout::dense(rows.len(), whole.heads(), whole.head_dim());
    let row = whole.row_stride();
    Placed::new(harness, layout, &elements[rows.start * row..rows.end * row])
}

/// Puts this rank's keys and values where they belong in the slot.
fn put<H: Harness, E: Element>(
    harness: &H,
    from: &Placed<H, E>,
    slot: &mut Placed<H, E>,
    rows: Range<usize>,
) -> super::Result<(), H> {
    let from = [KvRef::packed(from.rows(harness)?)?];
    let into = KvMut::packed(slot.rows_mut(harness)?)?.narrow(rows)?;
    harness.device().gather_into(Gather { from: &from, into }).map_err(RunError::Device)
}

/// Puts together the outcomes of all ranks, in rank order: of each, its own rows.
///
/// # Panics
/// Where there are no outcomes, or not of the plan and the operator.
pub fn together<E: Element>(
    inputs: &Sequence<'_, E>,
    outcomes: &[Outcome<E, SequenceGradients<E>>],
) -> Outcome<E, SequenceGradients<E>> {
    let (tokens, attention) = (inputs.plan.tokens(), inputs.attention);
    let mut whole = outcomes[0].clone();
    for (rank, outcome) in outcomes.iter().enumerate() {
        for step in inputs.plan.steps() {
            let rows = step.write_share(rank, outcomes.len()).expect("one of the ranks");
            let (q, kv) = (attention.q_layout(tokens), attention.kv_layout(tokens));
            copy(&mut whole.out, &outcome.out, &q, rows.clone());
            for head in 0..attention.heads() {
                let rows = head * tokens + rows.start..head * tokens + rows.end;
                whole.lse[rows.clone()].copy_from_slice(&outcome.lse[rows]);
            }
            if let (Some(whole), Some(outcome)) = (&mut whole.gradients, &outcome.gradients) {
                copy(&mut whole.dq, &outcome.dq, &q, rows.clone());
                copy(&mut whole.dkv, &outcome.dkv, &kv, rows);
            }
        }
    }
    whole
}

fn copy<T: Copy>(into: &mut [T], from: &[T], layout: &Layout, rows: Range<usize>) {
    let elements = rows.start * layout.row_stride()..rows.end * layout.row_stride();
    into[elements.clone()].copy_from_slice(&from[elements]);
}
