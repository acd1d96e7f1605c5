//! What a runtime does with a plan: layers with slots, forward step by step, backward in reverse.

use crate::model::Model;
use crate::results::{LayerResults, Passes};
use anyhow::Result;
use microseq::dev::{Harness, PreparedOf};
use microseq::{
    Accumulate, Attention, Backward, Device, Element, Flush, Forward, Gather, KvMut, KvRef, Layout, Pass,
    Plan, Problem, RowsMut, RowsRef, Slot, Step, ViewError,
};
use std::time::{Duration, Instant};

/// A sequence being processed.
pub(crate) struct Runtime<'a, H: Harness, E: Element> {
    harness: &'a H,
    model: &'a Model<'a, E>,
    attention: Attention,
    ranks: usize,
    tokens: usize,
    layers: Vec<Layer<H, E>>,
    /// What the backward pass needs of the steps that ran forward.
    turns: Vec<Turn<'a, H, E>>,
    scratch: H::Buffer<u8>,
    scratch_bytes: usize,
}

/// A layer's slot and its memory.
struct Layer<H: Harness, E: Element> {
    slot: Slot,
    /// The K/V store, `[tokens, 2 * kv_heads, head_dim]`. Every rank holds the same one; simulated
    /// ranks share it.
    kv: H::Buffer<E>,
    /// The gradient store of each rank, in f32.
    gradients: Vec<H::Buffer<f32>>,
    results: LayerResults<E>,
}

/// A step that ran forward.
struct Turn<'a, H: Harness, E: Element> {
    step: Step<'a>,
    shares: Vec<Share<'a, H, E>>,
}

/// A rank's part of a step.
struct Share<'a, H: Harness, E: Element> {
    step: Step<'a>,
    /// Made once, used by all layers in both passes.
    prepared: PreparedOf<H>,
    /// By layer.
    saved: Vec<Saved<H, E>>,
}

/// What a layer saves for its backward.
struct Saved<H: Harness, E: Element> {
    q: H::Buffer<E>,
    out: H::Buffer<E>,
    lse: H::Buffer<f32>,
}

impl<'a, H: Harness, E: Element> Runtime<'a, H, E> {
    pub(crate) fn new(
        harness: &'a H,
        model: &'a Model<'a, E>,
        attention: Attention,
        plan: &Plan<'a>,
        ranks: usize,
    ) -> Self {
        let elements = plan.tokens() * 2 * attention.kv_heads() * attention.head_dim();
        let layer = |_| Layer {
            slot: Slot::new(plan),
            kv: harness.upload(&vec![E::default(); elements]),
            gradients: (0..ranks).map(|_| harness.upload(&vec![0.0; elements])).collect(),
            results: LayerResults::new(plan.tokens(), &attention),
        };
        Self {
            harness,
            model,
            attention,
            ranks,
            tokens: plan.tokens(),
            layers: (0..model.layers()).map(layer).collect(),
            turns: Vec::new(),
            scratch: harness.upload(&[]),
            scratch_bytes: 0,
        }
    }

    /// Runs the whole sequence; `done` hears of every step and how long its attention took.
    pub(crate) fn run(
        mut self,
        plan: &Plan<'a>,
        mut done: impl FnMut(Pass, &Step<'a>),
    ) -> Result<(Vec<Passes>, Vec<LayerResults<E>>)> {
        let mut times = Vec::new();
        for step in plan.steps() {
            times.push(Passes { forward: self.forward(step)?, backward: Duration::ZERO });
            done(Pass::Forward, &step);
        }
        while let Some(turn) = self.turns.pop() {
            times[turn.step.index()].backward = self.backward(&turn)?;
            done(Pass::Backward, &turn.step);
        }
        let results = self.layers.into_iter().map(|mut layer| {
            layer.results.dkv = self.harness.download(&layer.gradients[0]);
            layer.results
        });
        Ok((times, results.collect()))
    }

    /// A step through all layers.
    fn forward(&mut self, step: Step<'a>) -> Result<Duration> {
        let mut turn = self.prepare(step)?;
        let mut time = Duration::ZERO;
        for layer in 0..self.layers.len() {
            self.layers[layer].slot.forward(&step)?;
            self.gather(layer, &turn)?;
            for share in &mut turn.shares {
                time += self.forward_share(layer, share)?;
            }
        }
        self.turns.push(turn);
        Ok(time)
    }

    /// The metadata of a step, for all its layers and both passes.
    fn prepare(&mut self, step: Step<'a>) -> Result<Turn<'a, H, E>> {
        let device = self.harness.device();
        let (mut shares, mut scratch_bytes) = (Vec::new(), self.scratch_bytes);
        for rank in 0..self.ranks {
            let share = step.share(rank, self.ranks)?;
            let prepared =
                device.prepare(&Problem::new(self.attention, share, E::DTYPE)?.on_zeroed_store())?;
            let bytes = [Pass::Forward, Pass::Backward].map(|pass| device.scratch_bytes(&prepared, pass));
            scratch_bytes = bytes.into_iter().fold(scratch_bytes, usize::max);
            shares.push(Share { step: share, prepared, saved: Vec::new() });
        }
        if scratch_bytes > self.scratch_bytes {
            self.scratch = self.harness.upload(&vec![0; scratch_bytes]);
            self.scratch_bytes = scratch_bytes;
        }
        Ok(Turn { step, shares })
    }

    /// The ranks project their rows; all of them go straight into the slot.
    fn gather(&mut self, layer: usize, turn: &Turn<'a, H, E>) -> Result<()> {
        let harness = self.harness;
        let project = |share: &Share<'a, H, E>| harness.upload(&self.model.kv(layer, share.step.rows()));
        let projected: Vec<_> = turn.shares.iter().map(project).collect();
        let views = turn.shares.iter().zip(&projected).map(|(share, projected)| {
            let layout = self.kv_layout(share.step.rows().len());
            KvRef::packed(RowsRef::new(harness.view(projected), layout)?)
        });
        let from = views.collect::<Result<Vec<_>, ViewError>>()?;
        let layout = self.kv_layout(self.tokens);
        let slot = RowsMut::new(harness.view_mut(&mut self.layers[layer].kv), layout)?;
        let into = KvMut::packed(slot)?.narrow(turn.step.write())?;
        harness.device().gather_into(Gather { from: &from, into })?;
        Ok(())
    }

    fn forward_share(&mut self, layer: usize, share: &mut Share<'a, H, E>) -> Result<Duration> {
        let harness = self.harness;
        let rows = share.step.rows();
        let (q_layout, lse_layout) = (self.q_layout(rows.len()), self.lse_layout(rows.len()));
        let kv = RowsRef::new(harness.view(&self.layers[layer].kv), self.kv_layout(self.tokens))?;
        let q = harness.upload(&self.model.q(layer, rows.clone()));
        let mut out = harness.upload(&vec![E::default(); q_layout.rows() * q_layout.row_stride()]);
        let mut lse = harness.upload(&vec![0.0; rows.len() * self.attention.heads()]);
        let operands = Forward {
            q: RowsRef::new(harness.view(&q), q_layout)?,
            kv: KvRef::packed(kv)?.narrow(share.step.window())?,
            out: RowsMut::new(harness.view_mut(&mut out), q_layout)?,
            lse: RowsMut::new(harness.view_mut(&mut lse), lse_layout)?,
        };
        let scratch = harness.view_mut(&mut self.scratch);
        let begin = Instant::now();
        harness.device().forward(&share.prepared, operands, scratch)?;
        harness.synchronise();
        let time = begin.elapsed();
        self.layers[layer].results.put_forward(rows, &harness.download(&out), &harness.download(&lse));
        share.saved.push(Saved { q, out, lse });
        Ok(time)
    }

    /// A step back through all layers.
    fn backward(&mut self, turn: &Turn<'a, H, E>) -> Result<Duration> {
        let mut time = Duration::ZERO;
        for layer in (0..self.layers.len()).rev() {
            self.layers[layer].slot.backward(&turn.step)?;
            for (rank, share) in turn.shares.iter().enumerate() {
                time += self.backward_share(layer, rank, share)?;
            }
            self.reduce(layer, &turn.step)?;
            self.flush(layer, &turn.step)?;
        }
        Ok(time)
    }

    fn backward_share(&mut self, layer: usize, rank: usize, share: &Share<'a, H, E>) -> Result<Duration> {
        let harness = self.harness;
        let (rows, window) = (share.step.rows(), share.step.window());
        let (q_layout, lse_layout) = (self.q_layout(rows.len()), self.lse_layout(rows.len()));
        let kv_layout = self.kv_layout(self.tokens);
        let Saved { q, out, lse } = &share.saved[layer];
        let dout = harness.upload(&self.model.dout(layer, rows.clone()));
        let mut dq = harness.upload(&vec![E::default(); q_layout.rows() * q_layout.row_stride()]);
        let Layer { kv, gradients, results, .. } = &mut self.layers[layer];
        let kv = RowsRef::new(harness.view(kv), kv_layout)?;
        let dkv = RowsMut::new(harness.view_mut(&mut gradients[rank]), kv_layout)?;
        let operands = Backward {
            q: RowsRef::new(harness.view(q), q_layout)?,
            kv: KvRef::packed(kv)?.narrow(window.clone())?,
            out: RowsRef::new(harness.view(out), q_layout)?,
            lse: RowsRef::new(harness.view(lse), lse_layout)?,
            dout: RowsRef::new(harness.view(&dout), q_layout)?,
            dq: RowsMut::new(harness.view_mut(&mut dq), q_layout)?,
            dkv: KvMut::packed(dkv)?.narrow(window)?,
        };
        let scratch = harness.view_mut(&mut self.scratch);
        let begin = Instant::now();
        harness.device().backward(&share.prepared, operands, scratch)?;
        harness.synchronise();
        let time = begin.elapsed();
        results.put_dq(rows, &harness.download(&dq));
        Ok(time)
    }

    /// Adds the ranks' gradients of the step's own rows, sealed now, into those of rank 0: the sum
    /// of a reduce-scatter.
    fn reduce(&mut self, layer: usize, step: &Step<'a>) -> Result<()> {
        let (harness, layout) = (self.harness, self.kv_layout(self.tokens));
        let [sum, others @ ..] = &mut self.layers[layer].gradients[..] else { return Ok(()) };
        for other in others {
            let from = KvRef::packed(RowsRef::new(harness.view(other), layout)?)?.narrow(step.write())?;
            let into = KvMut::packed(RowsMut::new(harness.view_mut(sum), layout)?)?.narrow(step.write())?;
            harness.device().accumulate(Accumulate { from, into })?;
        }
        Ok(())
    }

    /// Rounds the sealed rows to the element type, as the backward of the projections wants them.
    fn flush(&mut self, layer: usize, step: &Step<'a>) -> Result<()> {
        let (harness, rows) = (self.harness, step.write());
        let (from_layout, into_layout) = (self.kv_layout(self.tokens), self.kv_layout(rows.len()));
        let mut projections = harness.upload(&vec![E::default(); rows.len() * into_layout.row_stride()]);
        let from = RowsRef::new(harness.view(&self.layers[layer].gradients[0]), from_layout)?;
        let into = RowsMut::new(harness.view_mut(&mut projections), into_layout)?;
        let (from, into) = (KvRef::packed(from)?.narrow(rows)?, KvMut::packed(into)?);
        harness.device().flush(Flush { from, into })?;
        Ok(())
    }

    fn q_layout(&self, rows: usize) -> Layout {
        Layout::dense(rows, self.attention.heads(), self.attention.head_dim())
    }

    fn kv_layout(&self, rows: usize) -> Layout {
        Layout::dense(rows, 2 * self.attention.kv_heads(), self.attention.head_dim())
    }

    fn lse_layout(&self, rows: usize) -> Layout {
        Layout::lse(self.attention.heads(), rows)
    }
}
