//! That the parts fit, on a small shape. Nothing here looks at a time.

use super::*;
use clap::CommandFactory;
use measure::check;
use measure::layer::{Cut, Layer, Operands};
use measure::packing;
use microseq::dev::Random;
use microseq::{Attention, Plan};

fn args(line: &str) -> Args {
    Args::parse_from(line.split_whitespace())
}

#[test]
fn command_line_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn names_the_workloads_where_there_is_none_of_the_name() {
    let error = args("bench --workload nothing").workload().unwrap_err().to_string();
    assert!(error.contains("\"nothing\"") && error.contains("cpu_pack_64"), "{error}");
}

#[test]
fn options_replace_parts_of_a_workload() {
    let workload = args("bench --workload cpu_pack_512 --head-dim 64 --window 512").workload().unwrap();
    assert_eq!((workload.head_dim, workload.window, workload.lengths.len()), (64, Some(512), 4));
}

#[test]
fn a_line_has_the_fields_that_others_read() {
    for rest in ["", "--fresh --type bf16 --threads 2 --micro-sequence-length 9"] {
        let line = format!(
            "bench --lengths 3,0,30,7 --heads 4 --kv-heads 2 --head-dim 8 --seconds 0 --threads 1 {rest}"
        );
        let line = line.replace("--threads 1 --fresh", "--fresh");
        let line = serde_json::to_value(measured(&args(&line)).unwrap()).unwrap();
        assert_eq!((&line["workload"], &line["device"]), (&"custom".into(), &"cpu".into()));
        for field in ["forward_ms", "backward_ms", "forward_gflops", "backward_gflops", "peak_gflops"] {
            assert!(line[field].as_f64().unwrap() > 0.0, "{field} of {line}");
        }
        for field in ["type", "threads", "max_rss_mb"] {
            assert!(line.get(field).is_some(), "{field} of {line}");
        }
    }
}

#[test]
fn wrong_results_are_refused() {
    let harness = device::cpu(Some(1)).unwrap();
    let attention = Attention::new(4, 2, 8).unwrap();
    let other = attention.with_window(2).unwrap();
    let plan = Plan::new(&[5, 40, 1], 20).unwrap();
    let operands = Operands::<f32>::random(&attention, plan.tokens());
    let mut layer = Layer::new(&harness, attention, plan.tokens(), &operands);
    let right = Cut::new::<f32>(&harness, plan, attention).unwrap();
    let wrong = Cut::new::<f32>(&harness, plan, other).unwrap();
    layer.reserve(&right);
    layer.reserve(&wrong);
    check::check(&mut layer, &right).unwrap();
    let error = check::check(&mut layer, &wrong).unwrap_err().to_string();
    assert!(error.contains("out is wrong"), "{error}");
}

#[test]
fn fresh_packings_keep_documents_and_tokens() {
    let mut random = Random::new(0);
    for lengths in [vec![], vec![7], vec![3, 0, 1000, 1], vec![0; 4]] {
        let drawn = packing::redraw(&lengths, &mut random);
        assert_eq!(drawn.len(), lengths.len());
        assert_eq!(drawn.iter().sum::<u32>(), lengths.iter().sum::<u32>());
    }
}
