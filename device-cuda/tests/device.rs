//! What the CUDA device does beyond the conformance suite.

mod common;

use common::gpu_test;
use core::ffi::c_void;
use libloading::Library;
use microseq_core::dev::Random;
use microseq_core::{
    Attention, Backward, DType, Device, Forward, KvMut, KvRef, Layout, Pass, Plan, Problem, RowsMut, RowsRef,
    Varlen, bf16,
};
use microseq_cuda::{Buffer, Cuda, CudaError, DeviceRef, Prepared};

fn main() {
    common::run(vec![
        gpu_test("loading_is_reported", loading_is_reported),
        gpu_test("no_such_device_is_an_error", no_such_device_is_an_error),
        gpu_test("too_much_memory_is_an_error", too_much_memory_is_an_error),
        gpu_test("streams_are_ordered_by_events", streams_are_ordered_by_events),
        gpu_test("buffers_do_not_leak", buffers_do_not_leak),
        gpu_test("foreign_streams_and_pointers_work", foreign_streams_and_pointers_work),
        gpu_test("many_documents_fit_one_step", many_documents_fit_one_step),
        gpu_test("the_current_context_is_put_back", the_current_context_is_put_back),
        gpu_test("calls_can_be_captured_in_a_graph", calls_can_be_captured_in_a_graph),
        gpu_test("offsets_beyond_two_to_the_31_are_right", offsets_beyond_two_to_the_31_are_right),
    ]);
}

fn loading_is_reported(cuda: Cuda) {
    let attention = Attention::new(4, 2, 64).expect("heads");
    let plan = Plan::new(&[10], 10).expect("plan");
    let step = plan.steps().next().expect("one step");
    let problem = Problem::new(attention, step, DType::Bf16).expect("problem");
    cuda.prepare(&problem).expect("prepared");
    let loaded = cuda.loaded_modules();
    let forward = loaded.iter().find(|module| module.name == "forward_mma_bf16_64").expect("loaded");
    assert!(!forward.took.is_zero());
}

fn no_such_device_is_an_error(_: Cuda) {
    match Cuda::new(1000) {
        Err(CudaError::NoDevice { ordinal: 1000, count }) => assert!(count > 0),
        other => panic!("{:?}", other.err()),
    }
}

fn too_much_memory_is_an_error(cuda: Cuda) {
    let bytes = 1 << 50;
    match Buffer::<u8>::zeros(cuda.stream(), bytes) {
        Err(CudaError::OutOfMemory { bytes: asked }) => assert_eq!(asked, bytes),
        other => panic!("{:?}", other.err()),
    }
    // The device still works.
    assert_eq!(Buffer::from_slice(cuda.stream(), &[1.0f32, 2.0]).unwrap().download().unwrap(), [1.0, 2.0]);
}

fn streams_are_ordered_by_events(cuda: Cuda) {
    let begin = cuda.stream().record().unwrap();
    let zeros = Buffer::<f32>::zeros(cuda.stream(), 1 << 24).unwrap();
    let end = cuda.stream().record().unwrap();
    let other = cuda.with_new_stream().unwrap();
    other.stream().wait(&end).unwrap();
    let done = other.stream().record().unwrap();
    done.synchronise().unwrap();
    assert!(!end.since(&begin).unwrap().is_zero());
    assert!(zeros.download().unwrap().iter().all(|x| *x == 0.0));
}

/// 2 TiB in all, in pieces of 1 GiB: no device holds it without taking pieces back.
fn buffers_do_not_leak(cuda: Cuda) {
    for _ in 0..2048 {
        Buffer::<u8>::zeros(cuda.stream(), 1 << 30).unwrap();
    }
    cuda.stream().synchronise().unwrap();
}

/// Memory and a stream as a runtime would bring them.
fn foreign_streams_and_pointers_work(cuda: Cuda) {
    let owner = cuda.with_new_stream().unwrap();
    let raw: *mut c_void = owner.stream().as_raw();
    // SAFETY: the stream is of the same GPU, and `owner` keeps it until the end of the test.
    let foreign = unsafe { cuda.on_stream(raw) };
    let values = [1.5f32, -2.0, 3.25];
    let buffer = Buffer::from_slice(owner.stream(), &values).unwrap();
    let mut copy = Buffer::<f32>::zeros(owner.stream(), 3).unwrap();
    let layout = Layout::dense(1, 1, 3);
    // SAFETY: the buffer holds three elements and is read on the stream that wrote it.
    let from = unsafe { DeviceRef::from_raw(buffer.view().address(), 3) };
    let rows = RowsRef::new(from, layout).unwrap();
    let kv = KvRef::separate(rows, rows).unwrap();
    let mut other = Buffer::<f32>::zeros(owner.stream(), 3).unwrap();
    let into = KvMut::separate(
        RowsMut::new(copy.view_mut(), layout).unwrap(),
        RowsMut::new(other.view_mut(), layout).unwrap(),
    )
    .unwrap();
    foreign.gather_into(microseq_core::Gather { from: &[kv], into }).unwrap();
    assert_eq!(copy.download().unwrap(), values);
    assert_eq!(other.download().unwrap(), values);
}

/// 65,536 documents of one token: each sees itself alone, so out is v, and dv is dout.
fn many_documents_fit_one_step(cuda: Cuda) {
    const N: usize = 65_536;
    const D: usize = 16;
    let attention = Attention::new(1, 1, D).unwrap();
    let cu: Vec<i32> = (0..=N as i32).collect();
    let problem = Problem::new(attention, Varlen::new(&cu, &cu, N, N).unwrap(), DType::Bf16).unwrap();
    let prepared = cuda.prepare(&problem).unwrap();
    let mut random = Random::new(1);
    let mut data = || random.elements::<bf16>(N * D);
    let (q, k, v, dout) = (data(), data(), data(), data());
    let stream = cuda.stream();
    let on_device = |x: &[bf16]| Buffer::from_slice(stream, x).unwrap();
    let (dq_, dk_, dv_, ddout) = (on_device(&q), on_device(&k), on_device(&v), on_device(&dout));
    let mut out = Buffer::<bf16>::zeros(stream, N * D).unwrap();
    let mut dq = Buffer::<bf16>::zeros(stream, N * D).unwrap();
    let mut lse = Buffer::<f32>::zeros(stream, N).unwrap();
    let mut dk = Buffer::<f32>::zeros(stream, N * D).unwrap();
    let mut dv = Buffer::<f32>::zeros(stream, N * D).unwrap();
    let mut scratch = Buffer::<u8>::zeros(stream, cuda.scratch_bytes(&prepared, Pass::Backward)).unwrap();
    let dense = Layout::dense(N, 1, D);
    let kv =
        KvRef::separate(RowsRef::new(dk_.view(), dense).unwrap(), RowsRef::new(dv_.view(), dense).unwrap())
            .unwrap();
    cuda.forward(
        &prepared,
        Forward {
            q: RowsRef::new(dq_.view(), dense).unwrap(),
            kv: kv.shorten(),
            out: RowsMut::new(out.view_mut(), dense).unwrap(),
            lse: RowsMut::new(lse.view_mut(), Layout::lse(1, N)).unwrap(),
        },
        scratch.view_mut(),
    )
    .unwrap();
    cuda.backward(
        &prepared,
        Backward {
            q: RowsRef::new(dq_.view(), dense).unwrap(),
            kv: kv.shorten(),
            out: RowsRef::new(out.view(), dense).unwrap(),
            lse: RowsRef::new(lse.view(), Layout::lse(1, N)).unwrap(),
            dout: RowsRef::new(ddout.view(), dense).unwrap(),
            dq: RowsMut::new(dq.view_mut(), dense).unwrap(),
            dkv: KvMut::separate(
                RowsMut::new(dk.view_mut(), dense).unwrap(),
                RowsMut::new(dv.view_mut(), dense).unwrap(),
            )
            .unwrap(),
        },
        scratch.view_mut(),
    )
    .unwrap();
    assert_eq!(out.download().unwrap(), v);
    let wanted: Vec<f32> = dout.iter().map(|x| x.to_f32()).collect();
    assert_eq!(dv.download().unwrap(), wanted);
    assert!(dq.download().unwrap().iter().all(|x| x.to_f32().abs() < 1e-2));
}

/// A function of the driver, for what the crate has no interface to.
fn driver<F: Copy>(symbol: &str) -> F {
    // SAFETY: the driver is loaded already: this finds it again. Callers name each symbol's own type.
    let library = Box::leak(Box::new(unsafe { Library::new("libcuda.so.1") }.expect("the driver")));
    // SAFETY: as above.
    *unsafe { library.get::<F>(symbol.as_bytes()) }.expect("a function of the driver")
}

/// Panics where a driver's function fails.
fn ok(code: u32) {
    assert_eq!(code, 0, "CUDA error");
}

fn the_current_context_is_put_back(cuda: Cuda) {
    let current: unsafe extern "C" fn(*mut *mut c_void) -> u32 = driver("cuCtxGetCurrent");
    let set: unsafe extern "C" fn(*mut c_void) -> u32 = driver("cuCtxSetCurrent");
    let create: unsafe extern "C" fn(*mut *mut c_void, u32, i32) -> u32 = driver("cuCtxCreate_v2");
    let destroy: unsafe extern "C" fn(*mut c_void) -> u32 = driver("cuCtxDestroy_v2");
    let read = || {
        let mut context = core::ptr::null_mut();
        // SAFETY: `context` may be written.
        ok(unsafe { current(&mut context) });
        context
    };
    // SAFETY: null makes no context current.
    ok(unsafe { set(core::ptr::null_mut()) });
    Buffer::from_slice(cuda.stream(), &[1.0f32]).unwrap();
    assert!(read().is_null());
    let mut mine = core::ptr::null_mut();
    // SAFETY: `mine` may be written; it becomes current and is destroyed below.
    ok(unsafe { create(&mut mine, 0, 0) });
    Buffer::from_slice(cuda.stream(), &[1.0f32]).unwrap();
    assert_eq!(read(), mine);
    // SAFETY: made above, used by nothing.
    ok(unsafe { destroy(mine) });
}

/// One layer's operands: packed K/V, a document of `rows` rows.
struct Layer {
    attention: Attention,
    rows: usize,
    q: Buffer<bf16>,
    kv: Buffer<bf16>,
    dout: Buffer<bf16>,
    out: Buffer<bf16>,
    dq: Buffer<bf16>,
    lse: Buffer<f32>,
    dkv: Buffer<f32>,
    scratch: Buffer<u8>,
    prepared: Prepared,
}

impl Layer {
    fn new(cuda: &Cuda, rows: usize) -> Self {
        let attention = Attention::new(4, 2, 128).unwrap();
        let cu = [0, rows as i32];
        let varlen = Varlen::new(&cu, &cu, rows, rows).unwrap();
        let prepared = cuda.prepare(&Problem::new(attention, varlen, DType::Bf16).unwrap()).unwrap();
        let stream = cuda.stream();
        let mut random = Random::new(7);
        let mut data = || Buffer::from_slice(stream, &random.elements(rows * 4 * 128)).unwrap();
        Self {
            attention,
            rows,
            q: data(),
            kv: data(),
            dout: data(),
            out: data(),
            dq: data(),
            lse: Buffer::zeros(stream, 4 * rows).unwrap(),
            dkv: Buffer::zeros(stream, rows * 4 * 128).unwrap(),
            scratch: Buffer::zeros(stream, cuda.scratch_bytes(&prepared, Pass::Backward)).unwrap(),
            prepared,
        }
    }

    /// Forward and backward.
    fn call(&mut self, cuda: &Cuda) {
        let heads = self.attention.heads();
        let (dense, lse) = (Layout::dense(self.rows, heads, 128), Layout::lse(heads, self.rows));
        let q = RowsRef::new(self.q.view(), dense).unwrap();
        let kv = KvRef::packed(RowsRef::new(self.kv.view(), dense).unwrap()).unwrap();
        let forward = Forward {
            q: q.shorten(),
            kv: kv.shorten(),
            out: RowsMut::new(self.out.view_mut(), dense).unwrap(),
            lse: RowsMut::new(self.lse.view_mut(), lse).unwrap(),
        };
        cuda.forward(&self.prepared, forward, self.scratch.view_mut()).unwrap();
        let backward = Backward {
            q: q.shorten(),
            kv: kv.shorten(),
            out: RowsRef::new(self.out.view(), dense).unwrap(),
            lse: RowsRef::new(self.lse.view(), lse).unwrap(),
            dout: RowsRef::new(self.dout.view(), dense).unwrap(),
            dq: RowsMut::new(self.dq.view_mut(), dense).unwrap(),
            dkv: KvMut::packed(RowsMut::new(self.dkv.view_mut(), dense).unwrap()).unwrap(),
        };
        cuda.backward(&self.prepared, backward, self.scratch.view_mut()).unwrap();
    }

    fn results(&self) -> (Vec<bf16>, Vec<f32>, Vec<bf16>, Vec<f32>) {
        let Self { out, lse, dq, dkv, .. } = self;
        (out.download().unwrap(), lse.download().unwrap(), dq.download().unwrap(), dkv.download().unwrap())
    }
}

/// A captured call, replayed twice, does what two calls do.
fn calls_can_be_captured_in_a_graph(cuda: Cuda) {
    let begin: unsafe extern "C" fn(*mut c_void, u32) -> u32 = driver("cuStreamBeginCapture_v2");
    let end: unsafe extern "C" fn(*mut c_void, *mut *mut c_void) -> u32 = driver("cuStreamEndCapture");
    let instantiate: unsafe extern "C" fn(*mut *mut c_void, *mut c_void, u64) -> u32 =
        driver("cuGraphInstantiateWithFlags");
    let launch: unsafe extern "C" fn(*mut c_void, *mut c_void) -> u32 = driver("cuGraphLaunch");
    let destroy_exec: unsafe extern "C" fn(*mut c_void) -> u32 = driver("cuGraphExecDestroy");
    let destroy: unsafe extern "C" fn(*mut c_void) -> u32 = driver("cuGraphDestroy");
    let retain: unsafe extern "C" fn(*mut *mut c_void, i32) -> u32 = driver("cuDevicePrimaryCtxRetain");
    let set: unsafe extern "C" fn(*mut c_void) -> u32 = driver("cuCtxSetCurrent");
    let mut primary = core::ptr::null_mut();
    // SAFETY: `primary` may be written; device 0 is that of the test.
    ok(unsafe { retain(&mut primary, 0) });
    // SAFETY: retained above; the graph's own calls, unlike the crate's, need a current context.
    ok(unsafe { set(primary) });

    let mut called = Layer::new(&cuda, 700);
    called.call(&cuda);
    called.call(&cuda);

    let mut replayed = Layer::new(&cuda, 700);
    cuda.stream().synchronise().unwrap();
    let stream = cuda.stream().as_raw();
    let (mut graph, mut exec) = (core::ptr::null_mut(), core::ptr::null_mut());
    // SAFETY: the stream lives; 0 is the global mode, which refuses every call that may wait.
    ok(unsafe { begin(stream, 0) });
    replayed.call(&cuda);
    // SAFETY: `graph` may be written.
    ok(unsafe { end(stream, &mut graph) });
    // SAFETY: `exec` may be written; the graph was captured above.
    ok(unsafe { instantiate(&mut exec, graph, 0) });
    for _ in 0..2 {
        // SAFETY: what the graph uses lives in `replayed`.
        ok(unsafe { launch(exec, stream) });
    }
    assert!(replayed.results() == called.results());
    // SAFETY: made above, used no more.
    unsafe { (ok(destroy_exec(exec)), ok(destroy(graph))) };
}

/// Rows 2^25 elements apart: those from row 64 on begin behind element 2^31.
fn offsets_beyond_two_to_the_31_are_right(cuda: Cuda) {
    const ROWS: usize = 80;
    const STRIDE: usize = 1 << 25;
    let mut dense = Layer::new(&cuda, ROWS);
    dense.call(&cuda);

    let wide = Layout::dense(ROWS, 4, 128).with_row_stride(STRIDE);
    let len = (ROWS - 1) * STRIDE + 4 * 128;
    let stream = cuda.stream();
    let mut store = Buffer::<bf16>::zeros(stream, len).unwrap();
    let mut gradient = Buffer::<f32>::zeros(stream, len).unwrap();
    let narrow = Layout::dense(ROWS, 4, 128);
    let from = KvRef::packed(RowsRef::new(dense.kv.view(), narrow).unwrap()).unwrap();
    let into = KvMut::packed(RowsMut::new(store.view_mut(), wide).unwrap()).unwrap();
    cuda.gather_into(microseq_core::Gather { from: &[from], into }).unwrap();

    let lse = Layout::lse(4, ROWS);
    let mut out = Buffer::<bf16>::zeros(stream, ROWS * 512).unwrap();
    let mut dq = Buffer::<bf16>::zeros(stream, ROWS * 512).unwrap();
    let mut lse_buffer = Buffer::<f32>::zeros(stream, 4 * ROWS).unwrap();
    let q = RowsRef::new(dense.q.view(), narrow).unwrap();
    let kv = KvRef::packed(RowsRef::new(store.view(), wide).unwrap()).unwrap();
    let forward = Forward {
        q: q.shorten(),
        kv: kv.shorten(),
        out: RowsMut::new(out.view_mut(), narrow).unwrap(),
        lse: RowsMut::new(lse_buffer.view_mut(), lse).unwrap(),
    };
    cuda.forward(&dense.prepared, forward, dense.scratch.view_mut()).unwrap();
    let backward = Backward {
        q: q.shorten(),
        kv: kv.shorten(),
        out: RowsRef::new(out.view(), narrow).unwrap(),
        lse: RowsRef::new(lse_buffer.view(), lse).unwrap(),
        dout: RowsRef::new(dense.dout.view(), narrow).unwrap(),
        dq: RowsMut::new(dq.view_mut(), narrow).unwrap(),
        dkv: KvMut::packed(RowsMut::new(gradient.view_mut(), wide).unwrap()).unwrap(),
    };
    cuda.backward(&dense.prepared, backward, dense.scratch.view_mut()).unwrap();

    let mut dkv = Buffer::<f32>::zeros(stream, ROWS * 512).unwrap();
    let from = KvRef::packed(RowsRef::new(gradient.view(), wide).unwrap()).unwrap();
    let into = KvMut::packed(RowsMut::new(dkv.view_mut(), narrow).unwrap()).unwrap();
    cuda.accumulate(microseq_core::Accumulate { from, into }).unwrap();

    let (wanted_out, wanted_lse, wanted_dq, wanted_dkv) = dense.results();
    assert!(out.download().unwrap() == wanted_out);
    assert!(lse_buffer.download().unwrap() == wanted_lse);
    assert!(dq.download().unwrap() == wanted_dq);
    assert!(dkv.download().unwrap() == wanted_dkv);
}
