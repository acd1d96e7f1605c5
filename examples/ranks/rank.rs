//! What a rank does with its share of every step: one layer, forward and backward.

use crate::job::{Job, Results};
use anyhow::Result;
use microseq::dev::{Harness, PreparedOf, SpaceOf};
use microseq::{
    Backward, Device, Forward, Gather, KvMut, KvRef, Layout, Pass, Problem, Ranks, RowsMut, RowsRef, Slot,
    Step,
};
use std::ops::Range;

/// A step, this rank's share of it, and the share's metadata.
struct Turn<'a, P> {
    step: Step<'a>,
    share: Step<'a>,
    prepared: P,
}

/// A rank's memory for the layer.
struct Layer<'a, H: Harness> {
    harness: &'a H,
    job: &'a Job,
    slot: Slot,
    /// The K/V store.
    kv: H::Buffer<f32>,
    /// What was made of the projections; kept until the device is done.
    projected: Vec<H::Buffer<f32>>,
    out: H::Buffer<f32>,
    lse: H::Buffer<f32>,
    dq: H::Buffer<f32>,
    scratch: H::Buffer<u8>,
}

/// Both passes. With one rank, the group's calls are nothing but the work that is done meanwhile.
pub(crate) fn run<H, R>(harness: &H, ranks: &mut R, job: &Job) -> Result<Results>
where
    H: Harness,
    R: Ranks<Space = SpaceOf<H>>,
{
    let device = harness.device();
    let plan = job.plan()?;
    let mut turns = Vec::new();
    for step in plan.steps() {
        let share = step.share(ranks.rank(), ranks.size())?;
        let prepared = device.prepare(&Problem::of::<f32>(job.attention, share)?.on_zeroed_store())?;
        turns.push(Turn { step, share, prepared });
    }
    let scratch = turns.iter().flat_map(|turn| {
        [Pass::Forward, Pass::Backward].map(|pass| device.scratch_bytes(&turn.prepared, pass))
    });
    let nothing = |elements| harness.upload(&vec![f32::NAN; elements]);
    let mut layer = Layer {
        harness,
        job,
        slot: Slot::new(&plan),
        kv: nothing(job.kv.len()),
        projected: Vec::new(),
        out: nothing(job.q.len()),
        lse: nothing(job.tokens * job.attention.heads()),
        dq: nothing(job.q.len()),
        scratch: harness.upload(&vec![0; scratch.max().unwrap_or(0)]),
    };

    let mut queries = Vec::new();
    for turn in &turns {
        queries.push(layer.forward(ranks, turn)?);
    }

    // Backward in reverse. The rows of a step are sealed when its own backward has run; they travel while
    // the step before it runs.
    let mut gradients = harness.upload(&vec![0.0f32; job.kv.len()]);
    if let Some(last) = turns.last() {
        let store = KvMut::packed(RowsMut::new(harness.view_mut(&mut gradients), layer.kv_layout())?)?;
        layer.backward(last, &queries[turns.len() - 1], store)?;
    }
    for (n, turn) in turns.iter().enumerate().rev() {
        let store = KvMut::packed(RowsMut::new(harness.view_mut(&mut gradients), layer.kv_layout())?)?;
        let (open, sealed) = store.split(turn.step.begin())?;
        let sealed = sealed.narrow(0..turn.step.write().len())?;
        ranks.reduce(0, &turn.step, sealed, || match n.checked_sub(1) {
            Some(before) => layer.backward(&turns[before], &queries[before], open),
            None => Ok(()),
        })??;
        // This rank's rows of the store now hold the sums of all ranks.
    }

    // A device may be behind; and only now it is known that no other rank failed.
    ranks.finish()?;
    harness.synchronise();
    Ok(Results {
        out: harness.download(&layer.out),
        lse: harness.download(&layer.lse),
        dq: harness.download(&layer.dq),
        dkv: harness.download(&gradients),
    })
}

impl<H: Harness> Layer<'_, H> {
    /// A step's share, forward. Returns its queries.
    fn forward<R>(&mut self, ranks: &mut R, turn: &Turn<'_, PreparedOf<H>>) -> Result<H::Buffer<f32>>
    where
        R: Ranks<Space = SpaceOf<H>>,
    {
        let (harness, job) = (self.harness, self.job);
        let (rows, q_layout, kv_layout) = (turn.share.rows(), self.q_layout(), self.kv_layout());
        self.slot.forward(&turn.step)?;
        self.put_own_rows(rows.clone())?;

        // The queries are projected while the other ranks' keys and values arrive.
        let store = KvMut::packed(RowsMut::new(harness.view_mut(&mut self.kv), kv_layout)?)?;
        let project = || harness.upload(part(&job.q, &q_layout, rows.clone()));
        let q = ranks.gather(0, &turn.step, store.narrow(turn.step.write())?, project)?;

        let kv = KvRef::packed(RowsRef::new(harness.view(&self.kv), kv_layout)?)?;
        let lse_layout = job.attention.lse_layout(job.tokens);
        let operands = Forward {
            q: RowsRef::new(harness.view(&q), job.attention.q_layout(rows.len()))?,
            kv: kv.narrow(turn.share.window())?,
            out: RowsMut::new(harness.view_mut(&mut self.out), q_layout)?.narrow(rows.clone())?,
            lse: RowsMut::new(harness.view_mut(&mut self.lse), lse_layout)?.narrow(rows)?,
        };
        harness.device().forward(&turn.prepared, operands, harness.view_mut(&mut self.scratch))?;
        Ok(q)
    }

    /// A step's share, backward, into the rows of the gradient store up to the step's end.
    fn backward(
        &mut self,
        turn: &Turn<'_, PreparedOf<H>>,
        q: &H::Buffer<f32>,
        mut gradients: KvMut<'_, SpaceOf<H>, f32>,
    ) -> Result<()> {
        let (harness, job) = (self.harness, self.job);
        let (rows, window) = (turn.share.rows(), turn.share.window());
        let (q_layout, own) = (self.q_layout(), job.attention.q_layout(rows.len()));
        self.slot.backward(&turn.step)?;
        let dout = harness.upload(part(&job.dout, &q_layout, rows.clone()));
        let kv = KvRef::packed(RowsRef::new(harness.view(&self.kv), self.kv_layout())?)?;
        let lse_layout = job.attention.lse_layout(job.tokens);
        let operands = Backward {
            q: RowsRef::new(harness.view(q), own)?,
            kv: kv.narrow(window.clone())?,
            out: RowsRef::new(harness.view(&self.out), q_layout)?.narrow(rows.clone())?,
            lse: RowsRef::new(harness.view(&self.lse), lse_layout)?.narrow(rows.clone())?,
            dout: RowsRef::new(harness.view(&dout), own)?,
            dq: RowsMut::new(harness.view_mut(&mut self.dq), q_layout)?.narrow(rows)?,
            dkv: gradients.reborrow().narrow(window)?,
        };
        harness.device().backward(&turn.prepared, operands, harness.view_mut(&mut self.scratch))?;
        self.projected.push(dout);
        Ok(())
    }

    /// Puts this rank's keys and values where they belong in the slot. A projection may write them there
    /// itself.
    fn put_own_rows(&mut self, rows: Range<usize>) -> Result<()> {
        let (harness, layout) = (self.harness, self.kv_layout());
        let projected = harness.upload(part(&self.job.kv, &layout, rows.clone()));
        let from = RowsRef::new(harness.view(&projected), self.job.attention.kv_layout(rows.len()))?;
        let from = [KvRef::packed(from)?];
        let store = KvMut::packed(RowsMut::new(harness.view_mut(&mut self.kv), layout)?)?;
        harness.device().gather_into(Gather { from: &from, into: store.narrow(rows)? })?;
        self.projected.push(projected);
        Ok(())
    }

    fn q_layout(&self) -> Layout {
        self.job.attention.q_layout(self.job.tokens)
    }

    fn kv_layout(&self) -> Layout {
        self.job.attention.kv_layout(self.job.tokens)
    }
}

/// Some rows of a dense tensor.
fn part<'t>(tensor: &'t [f32], layout: &Layout, rows: Range<usize>) -> &'t [f32] {
    &tensor[rows.start * layout.row_stride()..rows.end * layout.row_stride()]
}
