//! What is measured: `workloads.json`, or a shape of the caller's own.

use anyhow::{Context, Result};
use microseq::{Attention, Plan};
use serde::{Deserialize, Serialize};

const WORKLOADS: &str = include_str!("../workloads.json");

/// Documents packed into a sequence, and the operator that runs over them. Always causal.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) lengths: Vec<u32>,
    pub(crate) micro_sequence_length: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) window: Option<usize>,
}

#[derive(Deserialize)]
struct Workloads {
    cpu: Vec<Workload>,
    gpu: Vec<Workload>,
}

/// The workloads that are sized for a CPU.
pub(crate) fn cpu() -> Result<Vec<Workload>> {
    Ok(read()?.cpu)
}

/// The workloads that are sized for a GPU.
pub(crate) fn gpu() -> Result<Vec<Workload>> {
    Ok(read()?.gpu)
}

/// The workload of a name; those sized for a GPU have one too.
pub(crate) fn named(name: &str) -> Result<Workload> {
    let Workloads { cpu, gpu } = read()?;
    let all: Vec<_> = cpu.into_iter().chain(gpu).collect();
    let known: Vec<_> = all.iter().map(|workload| workload.name.clone()).collect();
    let found = all.into_iter().find(|workload| workload.name == name);
    found.with_context(|| format!("there is no workload {name:?}, expected one of {}", known.join(", ")))
}

fn read() -> Result<Workloads> {
    serde_json::from_str(WORKLOADS).context("cannot read benches/workloads.json")
}

impl Workload {
    pub(crate) fn attention(&self) -> Result<Attention> {
        let attention = Attention::new(self.heads, self.kv_heads, self.head_dim)?;
        Ok(match self.window {
            Some(window) => attention.with_window(window)?,
            None => attention,
        })
    }

    pub(crate) fn plan(&self) -> Result<Plan<'_>> {
        Ok(Plan::new(&self.lengths, self.micro_sequence_length)?)
    }
}
