//! Every golden case, whole and in steps.

use super::*;
use clap::CommandFactory;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// The names of the golden cases.
fn names() -> Vec<String> {
    let files = std::fs::read_dir(GOLDEN).unwrap().map(|entry| entry.unwrap().file_name());
    let names = files.filter_map(|file| Some(file.to_str()?.strip_suffix(".in.safetensors")?.to_owned()));
    let names: Vec<_> = names.collect();
    assert!(!names.is_empty(), "no golden cases in {GOLDEN}");
    names
}

#[test]
fn golden_cases_are_within_tolerance() {
    let harness = device::cpu(None).unwrap();
    for name in names() {
        let input = std::fs::read(format!("{GOLDEN}/{name}.in.safetensors")).unwrap();
        let expected = std::fs::read(format!("{GOLDEN}/{name}.expected.safetensors")).unwrap();
        let file = File::new(&input).unwrap();
        for micro_sequence_length in [None, Some(7), Some(64)] {
            // Non-causal attention needs whole documents in each step.
            if name.contains("noncausal") && micro_sequence_length == Some(7) {
                continue;
            }
            let (dtype, outputs) = outputs(&harness, &file, micro_sequence_length).unwrap();
            for comparison in compare::with_file(&outputs, &expected, dtype).unwrap() {
                let Comparison { name: tensor, distance, .. } = &comparison;
                assert!(comparison.passes(), "{name} {tensor} {micro_sequence_length:?}: {distance:?}");
            }
        }
    }
}

/// A tensor's name and shape.
type Spec<'a> = (&'a str, &'a [usize]);

/// A file of f32 tensors of zeros, i32 where the name says so, and metadata.
fn file(tensors: &[Spec<'_>], metadata: &[(&str, &str)]) -> Vec<u8> {
    let zeros = vec![0; 4096];
    let views = tensors.iter().map(|(name, shape)| {
        let dtype = if name.starts_with("cu_seqlens") { Dtype::I32 } else { Dtype::F32 };
        let bytes = &zeros[..4 * shape.iter().product::<usize>()];
        (*name, TensorView::new(dtype, shape.to_vec(), bytes).unwrap())
    });
    let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    safetensors::serialize(views, Some(metadata)).unwrap()
}

/// What is said about such a file.
fn message(tensors: &[Spec<'_>], metadata: &[(&str, &str)]) -> String {
    let harness = device::cpu(Some(1)).unwrap();
    let bytes = file(tensors, metadata);
    let outputs = File::new(&bytes).map_err(Into::into).and_then(|file| outputs(&harness, &file, Some(4)));
    format!("{:#}", outputs.map(|_| ()).expect_err("the file is bad"))
}

#[test]
fn bad_sequences_are_named() {
    let (q, kv): (Spec<'_>, Spec<'_>) = (("q", &[6, 2, 4]), ("kv", &[6, 2, 4]));
    let lengths = ("lengths", "2,4");
    for (expected, tensors, metadata) in [
        ("neither kv", &[q][..], &[lengths][..]),
        ("tensor q is missing", &[kv], &[lengths]),
        ("both there", &[q, kv, ("k", &[6, 1, 4])], &[lengths]),
        ("metadata has no lengths", &[q, kv], &[]),
        ("expected [rows, heads, head_dim]", &[("q", &[6, 8]), kv], &[lengths]),
        ("to go with q", &[q, ("kv", &[5, 2, 4])], &[lengths]),
        ("head_dim 3", &[q, ("kv", &[6, 2, 3])], &[lengths]),
        ("kv has 3 heads", &[q, ("kv", &[6, 3, 4])], &[lengths]),
        ("not a multiple", &[q, ("kv", &[6, 6, 4])], &[lengths]),
        ("tensor dout has shape", &[q, kv, ("dout", &[6, 2, 3])], &[lengths]),
        ("ends at row 7", &[q, kv], &[("lengths", "3,4")]),
        ("metadata lengths is \"2,x\"", &[q, kv], &[("lengths", "2,x")]),
        ("metadata causal is \"perhaps\"", &[q, kv], &[lengths, ("causal", "perhaps")]),
        ("metadata scale is \"big\"", &[q, kv], &[lengths, ("scale", "big")]),
        ("scale is inf", &[q, kv], &[lengths, ("scale", "inf")]),
        ("window is 0", &[q, kv], &[lengths, ("window", "0")]),
        ("softcap is -1", &[q, kv], &[lengths, ("softcap", "-1")]),
        ("non-causal attention needs whole documents", &[q, kv], &[lengths, ("causal", "False")]),
    ] {
        let given = message(tensors, metadata);
        assert!(given.contains(expected), "{given:?}, expected {expected:?}");
    }
}

#[test]
fn bad_ops_are_named() {
    let q: Spec<'_> = ("q", &[6, 2, 4]);
    let (k, v): (Spec<'_>, Spec<'_>) = (("k", &[9, 1, 4]), ("v", &[9, 1, 4]));
    let (cu_q, cu_k): (Spec<'_>, Spec<'_>) = (("cu_seqlens_q", &[3]), ("cu_seqlens_k", &[3]));
    for (expected, tensors, metadata) in [
        ("tensor k is missing", &[q, v, cu_q, cu_k][..], &[][..]),
        ("tensor v is missing", &[q, k, cu_q, cu_k], &[]),
        ("tensor cu_seqlens_q is missing", &[q, k, v, cu_k], &[]),
        ("tensor cu_seqlens_k is missing", &[q, k, v, cu_q], &[]),
        ("to go with k", &[q, k, ("v", &[8, 1, 4]), cu_q, cu_k], &[]),
        ("cu_seqlens_k has shape [3, 1]", &[q, k, v, cu_q, ("cu_seqlens_k", &[3, 1])], &[]),
        ("cu_seqlens_q has 3 entries, cu_seqlens_k 2", &[q, k, v, cu_q, ("cu_seqlens_k", &[2])], &[]),
        ("metadata has lengths", &[q, k, v, cu_q, cu_k], &[("lengths", "6")]),
    ] {
        let given = message(tensors, metadata);
        assert!(given.contains(expected), "{given:?}, expected {expected:?}");
    }
}

#[test]
fn bytes_that_are_no_file_are_named() {
    let error = File::new(b"{}").map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("not a safetensors file"), "{error}");
}

#[test]
fn wrong_types_are_named() {
    let harness = device::cpu(Some(1)).unwrap();
    let q = TensorView::new(Dtype::F64, vec![0, 1, 1], &[]).unwrap();
    let kv = TensorView::new(Dtype::F32, vec![0, 2, 1], &[]).unwrap();
    let bytes = safetensors::serialize([("q", q), ("kv", kv.clone())], None).unwrap();
    let error = outputs(&harness, &File::new(&bytes).unwrap(), None).unwrap_err();
    assert_eq!(error.to_string(), "tensor q is F64, expected F32, F16 or BF16");
    let q = TensorView::new(Dtype::F16, vec![0, 1, 1], &[]).unwrap();
    let bytes = safetensors::serialize([("q", q), ("kv", kv)], None).unwrap();
    let error = outputs(&harness, &File::new(&bytes).unwrap(), None).unwrap_err();
    assert_eq!(error.to_string(), "tensor kv is F32, expected F16");
}

/// Neither rows nor documents: legal, and so is a file without dout.
#[test]
fn nothing_at_all_is_a_case() {
    let harness = device::cpu(Some(1)).unwrap();
    let bytes = file(&[("q", &[0, 2, 4]), ("kv", &[0, 2, 4])], &[("lengths", ""), ("window", "None")]);
    let (_, outputs) = outputs(&harness, &File::new(&bytes).unwrap(), None).unwrap();
    let names: Vec<_> = outputs.iter().map(|output| output.name).collect();
    assert_eq!(names, ["out", "lse"]);
}

#[test]
fn command_line_is_sound() {
    Args::command().debug_assert();
}
