//! A whole packed sequence over one slot: steps forward in order, backward in reverse.

use super::{Outcome, Placed, Result, RunError, check_elements, poison, scratch};
use crate::dev::Harness;
use crate::dev::harness::PreparedOf;
use crate::{
    Accumulate, Attention, Backward, Device, Element, Forward, Gather, KvMut, KvRef, Layout, Plan, Problem,
    Slot, Step,
};
use std::vec::Vec;

/// A packed sequence, dense on the host.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a, E> {
    /// How the sequence is cut.
    pub plan: Plan<'a>,
    /// The operator.
    pub attention: Attention,
    /// Queries, `[tokens, heads, head_dim]`.
    pub q: &'a [E],
    /// Keys and values, `[tokens, 2 * kv_heads, head_dim]`, keys first.
    pub kv: &'a [E],
    /// Gradient of the output, `[tokens, heads, head_dim]`. Without it only the forward pass runs.
    pub dout: Option<&'a [E]>,
}

/// How a sequence is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Simulated ranks: each has its share of every step and a gradient store of its own.
    pub ranks: usize,
    /// Whether the device is told that the gradient stores were zeroed
    /// ([`Problem::on_zeroed_store`]), as they are.
    pub zeroed_store: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { ranks: 1, zeroed_store: false }
    }
}

/// Gradients of a packed sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceGradients<E> {
    /// `[tokens, heads, head_dim]`.
    pub dq: Vec<E>,
    /// `[tokens, 2 * kv_heads, head_dim]`, keys first: the gradient store.
    pub dkv: Vec<f32>,
}

/// Runs a sequence: each step takes its turn of the slot, its shares are gathered into the slot and
/// run forward over their windows; then, in reverse, backward into the gradient stores, whose
/// sealed rows are added up.
///
/// # Errors
/// [`RunError`]: inputs of wrong sizes, an operator that a step cannot have, no ranks, or the
/// device's own.
pub fn sequence<H: Harness, E: Element>(
    harness: &H,
    inputs: &Sequence<'_, E>,
    options: Options,
) -> Result<Outcome<E, SequenceGradients<E>>, H> {
    let mut run = Run::new(harness, inputs, options)?;
    run.forward()?;
    let gradients = match inputs.dout {
        Some(dout) => Some(run.backward(dout)?),
        None => None,
    };
    harness.synchronise();
    let out = harness.download(&run.out.buffer);
    let lse = harness.download(&run.lse.buffer);
    Ok(Outcome { out, lse, gradients })
}

/// A rank's part of a step and its metadata, made once for both passes.
struct Share<'a, P> {
    step: Step<'a>,
    prepared: P,
}

/// A step and its shares.
struct Turn<'a, P> {
    step: Step<'a>,
    shares: Vec<Share<'a, P>>,
}

struct Run<'a, H: Harness, E: Element> {
    harness: &'a H,
    slot: Slot,
    turns: Vec<Turn<'a, PreparedOf<H>>>,
    q_layout: Layout,
    kv_layout: Layout,
    /// What the ranks computed, before it is gathered.
    kv_new: Placed<H, E>,
    q: Placed<H, E>,
    /// The slot's K/V store.
    store: Placed<H, E>,
    out: Placed<H, E>,
    lse: Placed<H, f32>,
    scratch: H::Buffer<u8>,
    ranks: usize,
}

impl<'a, H: Harness, E: Element> Run<'a, H, E> {
    fn new(harness: &'a H, inputs: &Sequence<'a, E>, options: Options) -> Result<Self, H> {
        let Sequence { plan, attention, q, kv, dout } = inputs;
        let (tokens, head_dim) = (plan.tokens(), attention.head_dim());
        let q_elements = tokens * attention.heads() * head_dim;
        check_elements::<H>("q", q.len(), q_elements)?;
        check_elements::<H>("kv", kv.len(), tokens * 2 * attention.kv_heads() * head_dim)?;
        check_elements::<H>("dout", dout.map_or(q_elements, <[E]>::len), q_elements)?;

        let turns = plan.steps().map(|step| turn::<H, E>(harness, step, attention, options));
        let turns = turns.collect::<Result<Vec<_>, H>>()?;
        let prepared = turns.iter().flat_map(|turn| &turn.shares).map(|share| &share.prepared);
        let scratch = scratch(harness, prepared);
        let q_layout = Layout::dense(tokens, attention.heads(), head_dim);
        let kv_layout = Layout::dense(tokens, 2 * attention.kv_heads(), head_dim);
        Ok(Self {
            harness,
            slot: Slot::new(plan),
            turns,
            q_layout,
            kv_layout,
            kv_new: Placed::new(harness, kv_layout, kv),
            q: Placed::new(harness, q_layout, q),
            store: Placed::filled(harness, kv_layout, poison()),
            out: Placed::filled(harness, q_layout, poison()),
            lse: Placed::filled(harness, Layout::lse(attention.heads(), tokens), poison()),
            scratch,
            ranks: options.ranks,
        })
    }

    fn forward(&mut self) -> Result<(), H> {
        for turn in &self.turns {
            self.slot.forward(&turn.step)?;
            gather(self.harness, turn, &self.kv_new, &mut self.store)?;
            for share in &turn.shares {
                let rows = share.step.rows();
                let kv = KvRef::packed(self.store.rows(self.harness)?)?;
                let operands = Forward {
                    q: self.q.rows(self.harness)?.narrow(rows.clone())?,
                    kv: kv.narrow(share.step.window())?,
                    out: self.out.rows_mut(self.harness)?.narrow(rows.clone())?,
                    lse: self.lse.rows_mut(self.harness)?.narrow(rows)?,
                };
                let scratch = self.harness.view_mut(&mut self.scratch);
                let device = self.harness.device();
                device.forward(&share.prepared, operands, scratch).map_err(RunError::Device)?;
            }
        }
        Ok(())
    }

    fn backward(&mut self, dout: &[E]) -> Result<SequenceGradients<E>, H> {
        let harness = self.harness;
        let dout = Placed::new(harness, self.q_layout, dout);
        let mut dq = Placed::filled(harness, self.q_layout, poison());
        let mut stores: Vec<_> =
            (0..self.ranks).map(|_| Placed::filled(harness, self.kv_layout, 0.0f32)).collect();
        for turn in self.turns.iter().rev() {
            self.slot.backward(&turn.step)?;
            for (share, store) in turn.shares.iter().zip(&mut stores) {
                let (rows, window) = (share.step.rows(), share.step.window());
                let operands = Backward {
                    q: self.q.rows(harness)?.narrow(rows.clone())?,
                    kv: KvRef::packed(self.store.rows(harness)?)?.narrow(window.clone())?,
                    out: self.out.rows(harness)?.narrow(rows.clone())?,
                    lse: self.lse.rows(harness)?.narrow(rows.clone())?,
                    dout: dout.rows(harness)?.narrow(rows.clone())?,
                    dq: dq.rows_mut(harness)?.narrow(rows)?,
                    dkv: KvMut::packed(store.rows_mut(harness)?)?.narrow(window)?,
                };
                let scratch = harness.view_mut(&mut self.scratch);
                let device = harness.device();
                device.backward(&share.prepared, operands, scratch).map_err(RunError::Device)?;
            }
            add_up(harness, turn.step, &mut stores)?;
        }
        harness.synchronise();
        Ok(SequenceGradients { dq: harness.download(&dq.buffer), dkv: harness.download(&stores[0].buffer) })
    }
}

fn turn<'a, H: Harness, E: Element>(
    harness: &H,
    step: Step<'a>,
    attention: &Attention,
    Options { ranks, zeroed_store }: Options,
) -> Result<Turn<'a, PreparedOf<H>>, H> {
    // At least one, so that no ranks at all is the error of `share`.
    let shares = (0..ranks.max(1)).map(|rank| {
        let share = step.share(rank, ranks)?;
        let problem = Problem::new(*attention, share, E::DTYPE)?;
        let problem = if zeroed_store { problem.on_zeroed_store() } else { problem };
        let prepared = harness.device().prepare(&problem).map_err(RunError::Device)?;
        Ok(Share { step: share, prepared })
    });
    Ok(Turn { step, shares: shares.collect::<Result<_, H>>()? })
}

/// Copies the ranks' keys and values into the slot rows of a step.
fn gather<H: Harness, E: Element>(
    harness: &H,
    turn: &Turn<'_, PreparedOf<H>>,
    from: &Placed<H, E>,
    into: &mut Placed<H, E>,
) -> Result<(), H> {
    let from = KvRef::packed(from.rows(harness)?)?;
    let shares = turn.shares.iter().map(|share| from.narrow(share.step.rows()));
    let shares = shares.collect::<core::result::Result<Vec<_>, _>>()?;
    let into = KvMut::packed(into.rows_mut(harness)?)?.narrow(turn.step.write())?;
    harness.device().gather_into(Gather { from: &shares, into }).map_err(RunError::Device)
}

/// Adds the sealed rows of all ranks' gradient stores into those of rank 0.
fn add_up<H: Harness>(harness: &H, step: Step<'_>, stores: &mut [Placed<H, f32>]) -> Result<(), H> {
    let Some((sum, others)) = stores.split_first_mut() else { return Ok(()) };
    for other in others {
        let from = KvRef::packed(other.rows(harness)?)?.narrow(step.write())?;
        let into = KvMut::packed(sum.rows_mut(harness)?)?.narrow(step.write())?;
        harness.device().accumulate(Accumulate { from, into }).map_err(RunError::Device)?;
    }
    Ok(())
}
