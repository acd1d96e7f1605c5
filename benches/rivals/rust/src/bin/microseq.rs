//! microseq, asked like its rivals. Its measuring code is that of its own benches.
//!
//! The forward pass of a packing that differs from the last one includes planning and preparation. On the
//! CPU the backward pass always includes clearing the gradient store, since what a rival's autograd
//! allocates is part of its time too; on a GPU, where rivals are asked without autograd, sums grow.

#[path = "../../../../measure/mod.rs"]
mod measure;

use anyhow::{Result, bail};
use measure::layer::{Cut, Layer, Operands};
use measure::peak::Instruction;
use microseq::cpu::{Cpu, Isa};
use microseq::dev::{Harness, HostHarness, oracle};
use microseq::{Attention, DType, Element, Plan, bf16, f16};
use microseq_rivals::{Answer, Hello, Packing, Request, Results, serve, timed};

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        None | Some("cpu") => on_cpu(),
        #[cfg(feature = "cuda")]
        Some("cuda") => on_gpu(),
        Some(device) => bail!("no device {device}"),
    }
}

fn on_cpu() -> Result<()> {
    let threads = rayon::current_num_threads();
    let device = Cpu::with_threads(threads)?.with_isa(Isa::from_environment()?)?;
    let harness = HostHarness::new(device);
    let version = format!("this tree, {}", harness.device().isa());
    let hello = Hello { name: "microseq", version, threads, ways: &["microseq", "peak"] };
    serve(&hello, |request| match request.way.as_str() {
        "peak" => peak(harness.device(), dtype(&request.dtype)?),
        _ => answer(&harness, request),
    })
}

#[cfg(feature = "cuda")]
fn on_gpu() -> Result<()> {
    let device = microseq::cuda::Cuda::new(0)?;
    let version = format!("this tree, {}", device.name()?);
    let harness = microseq::cuda::CudaHarness::new(device);
    let hello = Hello { name: "microseq", version, threads: 1, ways: &["microseq"] };
    serve(&hello, |request| answer(&harness, request))
}

fn dtype(name: &str) -> Result<DType> {
    Ok(match name {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::Bf16,
        other => bail!("no type {other}"),
    })
}

fn peak(device: &Cpu, dtype: DType) -> Result<Answer> {
    let instruction = Instruction::of_cpu(device.isa(), dtype);
    Ok(Answer {
        peak_gflops: Some(instruction.peak_gflops(device.threads())?),
        peak_instruction: Some(instruction.to_string()),
        ..Answer::default()
    })
}

/// What differs between devices beside their harness.
trait Rival: Harness + Sized {
    /// Milliseconds that the device takes for work which it has done when the work returns.
    fn timed(&self, work: impl FnOnce() -> Result<()>) -> Result<f64>;
    /// What the backward pass begins with.
    fn begin_backward<E: Element>(&self, layer: &mut Layer<'_, Self, E>);
}

impl Rival for HostHarness<Cpu> {
    fn timed(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        timed(work).map(|(time, ())| time)
    }

    fn begin_backward<E: Element>(&self, layer: &mut Layer<'_, Self, E>) {
        self.view_mut(&mut layer.dkv).fill(0.0);
    }
}

#[cfg(feature = "cuda")]
impl Rival for microseq::cuda::CudaHarness {
    fn timed(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let stream = self.device().stream();
        let begin = stream.record()?;
        work()?;
        let end = stream.record()?;
        end.synchronise()?;
        Ok(end.since(&begin)?.as_secs_f64() * 1e3)
    }

    fn begin_backward<E: Element>(&self, _: &mut Layer<'_, Self, E>) {}
}

fn answer<H: Rival>(harness: &H, request: &Request) -> Result<Answer> {
    match dtype(&request.dtype)? {
        DType::F32 => run::<H, f32>(harness, request),
        DType::F16 => run::<H, f16>(harness, request),
        DType::Bf16 => run::<H, bf16>(harness, request),
    }
}

fn run<H: Rival, E: Element>(harness: &H, request: &Request) -> Result<Answer> {
    let mut attention = Attention::new(request.heads, request.kv_heads, request.head_dim)?;
    if let Some(window) = request.window {
        attention = attention.with_window(window)?;
    }
    let (tokens, operands) = operands::<E>(&attention, request)?;
    let mut layer = Layer::<_, E>::new(harness, attention, tokens, &operands);
    let mut answer = Answer::default();
    let mut last: Option<(&Packing, Cut<'_, _>)> = None;
    for packing in &request.packings {
        let (prepare, cut) = match last.take() {
            Some((same, cut)) if same == packing => (0.0, cut),
            _ => timed(|| prepared::<H, E>(&mut layer, packing, request))?,
        };
        let forward = harness.timed(|| layer.forward(&cut))?;
        let backward = harness.timed(|| {
            harness.begin_backward(&mut layer);
            layer.backward(&cut)
        })?;
        answer.forward_ms.push(prepare + forward);
        answer.backward_ms.push(backward);
        last = Some((packing, cut));
    }
    if request.results.is_some() {
        request.write(&results(&layer))?;
    }
    Ok(answer)
}

/// Those that are given, or others; and how many tokens they are.
fn operands<E: Element>(attention: &Attention, request: &Request) -> Result<(usize, Operands<E>)> {
    if request.operands.is_none() {
        let lengths = request.packings.first().map_or(&[][..], |packing| &packing.lengths);
        let tokens = lengths.iter().sum::<u32>() as usize;
        return Ok((tokens, Operands::random(attention, tokens)));
    }
    let given = request.operands()?;
    let kv = oracle::pack(&given.k, &given.v, request.kv_heads, request.head_dim);
    let operands = Operands { q: rounded::<E>(&given.q), kv: rounded(&kv), dout: rounded(&given.dout) };
    Ok((given.tokens, operands))
}

fn prepared<'p, H: Harness, E: Element>(
    layer: &mut Layer<'_, H, E>,
    packing: &'p Packing,
    request: &Request,
) -> Result<Cut<'p, H>> {
    let plan = Plan::new(&packing.lengths, request.micro_sequence_length)?;
    let cut = Cut::new::<E>(layer.harness(), plan, layer.attention)?;
    layer.reserve(&cut);
    Ok(cut)
}

fn results<H: Harness, E: Element>(layer: &Layer<'_, H, E>) -> Results {
    let (harness, attention) = (layer.harness(), layer.attention);
    let dkv = harness.download(&layer.dkv);
    let (dk, dv) = oracle::unpack(&dkv, attention.kv_heads(), attention.head_dim());
    let widened = |buffer| -> Vec<f32> { harness.download::<E>(buffer).iter().map(|x| x.to_f32()).collect() };
    Results { out: widened(&layer.out), dq: widened(&layer.dq), dk, dv }
}

fn rounded<E: Element>(numbers: &[f32]) -> Vec<E> {
    numbers.iter().map(|&x| E::from_f32(x)).collect()
}
