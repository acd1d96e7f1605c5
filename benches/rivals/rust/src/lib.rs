//! The requests that `../compare.py` and `../gpu.py` send to each rival, a line of JSON each, and the answers.
//!
//! A rival runs every packing of a request once and says how long each pass took. It is idle between
//! requests, so that all rivals can be asked in turn, in one run on one machine.

use anyhow::{Context, Result, ensure};
use core::ops::Range;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

/// What a rival is.
#[derive(Serialize)]
pub struct Hello {
    pub name: &'static str,
    pub version: String,
    pub threads: usize,
    /// Ways to compute the same thing.
    pub ways: &'static [&'static str],
}

/// What is asked.
#[derive(Deserialize)]
pub struct Request {
    pub way: String,
    #[serde(rename = "type")]
    pub dtype: String,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub micro_sequence_length: usize,
    /// Each is run once; the first ones may be a warm-up, that is the caller's matter.
    pub packings: Vec<Packing>,
    /// Keys that a query sees, itself included.
    pub window: Option<usize>,
    /// Raw little-endian f32: q, then keys, values, dout. Where there are none, each rival draws its own.
    pub operands: Option<PathBuf>,
    /// Where to write out, dq, dk, dv of the last packing, likewise. dq, dk and dv only where there are
    /// gradients.
    pub results: Option<PathBuf>,
}

/// Documents packed into a sequence.
#[derive(Clone, Deserialize, PartialEq)]
pub struct Packing {
    pub lengths: Vec<u32>,
    /// For each step, what each document that touches it needs.
    pub steps: Vec<Vec<Call>>,
}

/// `[q_begin, q_end, k_begin, k_end]`: query rows and the key rows that they may see, in rows of the
/// sequence. Causal masks align at the end of both.
#[derive(Clone, Copy, Deserialize, PartialEq)]
pub struct Call([usize; 4]);

impl Call {
    pub fn q(&self) -> Range<usize> {
        self.0[0]..self.0[1]
    }

    pub fn k(&self) -> Range<usize> {
        self.0[2]..self.0[3]
    }
}

/// Milliseconds of each packing; no backward ones where there is no gradient.
#[derive(Default, Serialize)]
pub struct Answer {
    pub forward_ms: Vec<f64>,
    pub backward_ms: Vec<f64>,
    /// For a question about the machine's peak only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_gflops: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_instruction: Option<String>,
}

/// Dense operands in f32.
pub struct Operands {
    /// `[tokens, heads, head_dim]`.
    pub q: Vec<f32>,
    /// `[tokens, kv_heads, head_dim]`.
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// `[tokens, heads, head_dim]`.
    pub dout: Vec<f32>,
    pub tokens: usize,
}

/// Dense results in f32, shaped as their inputs.
#[derive(Default)]
pub struct Results {
    pub out: Vec<f32>,
    pub dq: Vec<f32>,
    pub dk: Vec<f32>,
    pub dv: Vec<f32>,
}

impl Request {
    pub fn operands(&self) -> Result<Operands> {
        let path = self.operands.as_ref().context("no operands are given")?;
        let bytes = fs::read(path).with_context(|| format!("cannot read {path:?}"))?;
        let (elements, _) = bytes.as_chunks();
        let numbers: Vec<f32> = elements.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let (row, kv_row) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let tokens = numbers.len() / (2 * row + 2 * kv_row);
        ensure!(tokens * (2 * row + 2 * kv_row) == numbers.len(), "{path:?} is cut off");
        let (q, rest) = numbers.split_at(tokens * row);
        let (k, rest) = rest.split_at(tokens * kv_row);
        let (v, dout) = rest.split_at(tokens * kv_row);
        Ok(Operands { q: q.into(), k: k.into(), v: v.into(), dout: dout.into(), tokens })
    }

    pub fn write(&self, results: &Results) -> Result<()> {
        let Some(path) = &self.results else { return Ok(()) };
        let Results { out, dq, dk, dv } = results;
        let numbers = [out, dq, dk, dv].into_iter().flatten();
        let bytes: Vec<u8> = numbers.flat_map(|x| x.to_le_bytes()).collect();
        fs::write(path, bytes).with_context(|| format!("cannot write {path:?}"))
    }

    pub fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}

/// Milliseconds that something took, and what it gave.
pub fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let begin = Instant::now();
    let given = work()?;
    Ok((begin.elapsed().as_secs_f64() * 1e3, given))
}

/// Answers requests until there are no more. A request that fails is answered with its error.
///
/// # Errors
/// Where standard input or output is closed.
pub fn serve(hello: &Hello, mut answer: impl FnMut(&Request) -> Result<Answer>) -> Result<()> {
    reply(hello)?;
    for line in std::io::stdin().lock().lines() {
        let request = serde_json::from_str(&line?).context("not a request");
        match request.and_then(|request| answer(&request)) {
            Ok(answer) => reply(&answer)?,
            Err(error) => reply(&serde_json::json!({ "error": format!("{error:#}") }))?,
        }
    }
    Ok(())
}

fn reply(line: &impl Serialize) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(line)?)?;
    Ok(stdout.flush()?)
}
