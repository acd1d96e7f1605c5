//! No call allocates: a counting allocator watches every one of them.
//!
//! What is counted are allocations of any thread while the calls run, so this program has one test.
//! Calls run on the calling thread, and inside of a rayon pool that was entered before. Each has run
//! once before it is counted: when its threads first look for work, rayon sets up what they keep.
//!
//! What is not counted: a call that enters a rayon pool from outside (on a device with a pool of its
//! own, `Cpu::with_threads`, that is every call) hands its job to the pool's queue of injected jobs, a
//! linked list of blocks of some dozens of jobs; rayon allocates a block now and then. A runtime that
//! cannot have that makes its calls inside of `ThreadPool::install`, on a device without a pool.

mod common;

use common::cpus;
use microseq::cpu::{Cpu, Isa};
use microseq::dev::Random;
use microseq::{
    Accumulate, Attention, Backward, Device, Element, Flush, Forward, Gather, Host, KvMut, KvRef, Layout,
    Pass, Plan, Problem, RowsMut, RowsRef, Step, bf16, f16,
};
use std::alloc::{GlobalAlloc, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands every request to the system's allocator, with the caller's promises.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: the caller's promises; the pointer came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: std::alloc::Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promises; the pointer came from the system's allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations that `run` makes, on all threads.
fn count<R>(run: impl FnOnce() -> R) -> (usize, R) {
    let before = ALLOCATIONS.load(Relaxed);
    let result = run();
    (ALLOCATIONS.load(Relaxed) - before, result)
}

#[test]
fn calls_allocate_nothing() {
    let (counted, _) = count(|| std::hint::black_box(vec![1, 2, 3]));
    assert!(counted >= 1, "the allocator counts");

    for isa in cpus::isas() {
        let single = cpus::cpu(isa, 1);
        each_type(&format!("{isa}, one thread"), &single);
        for threads in [2, 5] {
            let ambient = Cpu::new().with_isa(isa).unwrap();
            in_pool(threads, || each_type(&format!("{isa}, inside of {threads} threads"), &ambient));
        }
    }
    preparing_again();
}

/// Runs inside of a pool whose threads are gone on return: one that ends may allocate.
fn in_pool(threads: usize, run: impl FnOnce() + Send) {
    let mut handles = Vec::new();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).spawn_handler(|thread| {
        handles.push(std::thread::spawn(|| thread.run()));
        Ok(())
    });
    let pool = pool.build().unwrap();
    // Every thread has looked for work before anything is counted.
    pool.broadcast(|_| ());
    pool.install(run);
    drop(pool);
    for handle in handles {
        handle.join().unwrap();
    }
}

fn each_type(what: &str, cpu: &Cpu) {
    Layer::<f32>::new().check(what, cpu);
    Layer::<f16>::new().check(what, cpu);
    Layer::<bf16>::new().check(what, cpu);
}

const LENGTHS: [u32; 3] = [70, 3, 200];
const TOKENS: usize = 273;

fn attention() -> Attention {
    Attention::new(4, 2, 40).unwrap()
}

/// A layer's memory.
struct Layer<E> {
    q: Vec<E>,
    kv: Vec<E>,
    dout: Vec<E>,
    store: Vec<E>,
    out: Vec<E>,
    lse: Vec<f32>,
    dq: Vec<E>,
    gradients: Vec<f32>,
    flushed: Vec<E>,
}

fn q_layout() -> Layout {
    Layout::dense(TOKENS, attention().heads(), attention().head_dim())
}

fn kv_layout() -> Layout {
    Layout::dense(TOKENS, 2 * attention().kv_heads(), attention().head_dim())
}

fn rows<E: Element>(memory: &[E]) -> RowsRef<'_, Host, E> {
    RowsRef::new(memory, q_layout()).unwrap()
}

fn rows_mut<E: Element>(memory: &mut [E]) -> RowsMut<'_, Host, E> {
    RowsMut::new(memory, q_layout()).unwrap()
}

fn pairs<E: Element>(memory: &[E]) -> KvRef<'_, Host, E> {
    KvRef::packed(RowsRef::new(memory, kv_layout()).unwrap()).unwrap()
}

fn pairs_mut<E: Element>(memory: &mut [E]) -> KvMut<'_, Host, E> {
    KvMut::packed(RowsMut::new(memory, kv_layout()).unwrap()).unwrap()
}

impl<E: Element> Layer<E> {
    fn new() -> Self {
        let q = TOKENS * attention().heads() * attention().head_dim();
        let kv = TOKENS * 2 * attention().kv_heads() * attention().head_dim();
        let mut random = Random::new(17);
        Self {
            q: random.elements(q),
            kv: random.elements(kv),
            dout: random.elements(q),
            store: vec![E::default(); kv],
            out: vec![E::default(); q],
            lse: vec![0.0; TOKENS * attention().heads()],
            dq: vec![E::default(); q],
            gradients: vec![0.0; kv],
            flushed: vec![E::default(); kv],
        }
    }

    /// Two passes over the sequence: the first may allocate, the second must not.
    fn check(&mut self, what: &str, cpu: &Cpu) {
        let plan = Plan::new(&LENGTHS, 100).unwrap();
        let prepared: Vec<_> = plan.steps().map(|step| prepare::<E>(cpu, &step)).collect();
        let bytes = |pass| prepared.iter().map(|p| cpu.scratch_bytes(p, pass)).max().unwrap();
        let mut scratch = vec![0; bytes(Pass::Forward).max(bytes(Pass::Backward))];
        for (pass, name) in [(false, ""), (true, what)] {
            for (step, prepared) in plan.steps().zip(&prepared) {
                let counts = [
                    ("gather_into", count(|| self.gather(cpu, &step)).0),
                    ("forward", count(|| self.forward(cpu, &step, prepared, &mut scratch)).0),
                ];
                assert_none(pass, name, &counts);
            }
            for (step, prepared) in plan.steps().zip(&prepared).rev() {
                let counts = [
                    ("backward", count(|| self.backward(cpu, &step, prepared, &mut scratch)).0),
                    ("accumulate", count(|| self.accumulate(cpu, &step)).0),
                    ("flush", count(|| self.flush(cpu, &step)).0),
                ];
                assert_none(pass, name, &counts);
            }
        }
    }

    fn gather(&mut self, cpu: &Cpu, step: &Step<'_>) {
        let from = [pairs(&self.kv).narrow(step.write()).unwrap()];
        let into = pairs_mut(&mut self.store).narrow(step.write()).unwrap();
        cpu.gather_into(Gather { from: &from, into }).unwrap();
    }

    fn forward(
        &mut self,
        cpu: &Cpu,
        step: &Step<'_>,
        prepared: &<Cpu as Device>::Prepared,
        scratch: &mut [u8],
    ) {
        let lse = Layout::lse(attention().heads(), TOKENS);
        let operands = Forward {
            q: rows(&self.q).narrow(step.rows()).unwrap(),
            kv: pairs(&self.store).narrow(step.window()).unwrap(),
            out: rows_mut(&mut self.out).narrow(step.rows()).unwrap(),
            lse: RowsMut::new(&mut self.lse[..], lse).unwrap().narrow(step.rows()).unwrap(),
        };
        cpu.forward(prepared, operands, scratch).unwrap();
    }

    fn backward(
        &mut self,
        cpu: &Cpu,
        step: &Step<'_>,
        prepared: &<Cpu as Device>::Prepared,
        scratch: &mut [u8],
    ) {
        let lse = Layout::lse(attention().heads(), TOKENS);
        let operands = Backward {
            q: rows(&self.q).narrow(step.rows()).unwrap(),
            kv: pairs(&self.store).narrow(step.window()).unwrap(),
            out: rows(&self.out).narrow(step.rows()).unwrap(),
            lse: RowsRef::new(&self.lse[..], lse).unwrap().narrow(step.rows()).unwrap(),
            dout: rows(&self.dout).narrow(step.rows()).unwrap(),
            dq: rows_mut(&mut self.dq).narrow(step.rows()).unwrap(),
            dkv: pairs_mut(&mut self.gradients).narrow(step.window()).unwrap(),
        };
        cpu.backward(prepared, operands, scratch).unwrap();
    }

    /// Adds the rows of a rank that has none: any rows do.
    fn accumulate(&mut self, cpu: &Cpu, step: &Step<'_>) {
        let from = [0.0; 100 * 2 * 2 * 40];
        let layout = Layout::dense(step.write().len(), 2 * attention().kv_heads(), attention().head_dim());
        let from = KvRef::packed(RowsRef::new(&from[..], layout).unwrap()).unwrap();
        let into = pairs_mut(&mut self.gradients).narrow(step.write()).unwrap();
        cpu.accumulate(Accumulate { from, into }).unwrap();
    }

    fn flush(&mut self, cpu: &Cpu, step: &Step<'_>) {
        let from = pairs(&self.gradients).narrow(step.write()).unwrap();
        let into = pairs_mut(&mut self.flushed).narrow(step.write()).unwrap();
        cpu.flush(Flush { from, into }).unwrap();
    }
}

fn prepare<E: Element>(cpu: &Cpu, step: &Step<'_>) -> <Cpu as Device>::Prepared {
    cpu.prepare(&Problem::new(attention(), *step, E::DTYPE).unwrap()).unwrap()
}

#[track_caller]
fn assert_none(counted: bool, what: &str, counts: &[(&str, usize)]) {
    for (call, allocations) in counts.iter().filter(|_| counted) {
        assert_eq!(*allocations, 0, "{what}: allocations of {call}");
    }
}

/// Preparing a step in the memory of one that had as many documents and rows.
fn preparing_again() {
    let cpu = cpus::cpu(Isa::best(), 1);
    let plan = Plan::new(&LENGTHS, 100).unwrap();
    let problems: Vec<_> =
        plan.steps().map(|step| Problem::new(attention(), step, microseq::DType::F32).unwrap()).collect();
    let mut prepared = cpu.prepare(&problems[0]).unwrap();
    for problem in &problems {
        cpu.prepare_into(problem, &mut prepared).unwrap();
    }
    for problem in problems.iter().chain(problems.iter().rev()) {
        let (allocations, result) = count(|| cpu.prepare_into(problem, &mut prepared));
        assert_eq!((allocations, result), (0, Ok(())), "preparing again");
    }
}
