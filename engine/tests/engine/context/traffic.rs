//! Traffic of context-parallel ranks.

use super::{CP2, CP2_DP2, CP4, IMAGE_LEN, TP2_CP2};
use crate::layout::{Layout, four_layers};
use crate::setting::{Samples, microbatches, mock, on_mesh, trainer, within_limit, without_image};
use neva_engine::comm::{Axis, Mesh};
use neva_engine::trainer::Microbatch;
use neva_layout::{KeysValues, SharedImages};
use neva_schemas::CpCommType;

/// Returns the bytes that a rank has sent in a group with these operations.
fn sent(mesh: &Mesh, group: &str, operations: &[&str]) -> u64 {
    let traffic = mesh.traffic();
    let sent = traffic.get(group).map(|traffic| {
        operations
            .iter()
            .filter_map(|operation| traffic.get(operation))
            .map(|sent| sent.bytes)
            .sum()
    });
    sent.unwrap_or(0)
}

#[test]
fn traffic_matches_the_formulas() {
    within_limit(|| {
        let samples = Samples::edited(&four_layers(), |index, sample| {
            if index % 8 == 2 || index % 8 == 3 {
                without_image(sample);
            }
        });
        for (sizes, exchange) in [
            (CP2, CpCommType::P2p),
            (CP4, CpCommType::P2p),
            (CP4, CpCommType::AllGather),
            (TP2_CP2, CpCommType::P2p),
            (CP2_DP2, CpCommType::AllGather),
        ] {
            let layout = Layout::plain(sizes);
            let layout = if sizes.tp > 1 { layout.sequence_parallel() } else { layout };
            let mut finetune = layout.of(&four_layers());
            finetune.trainer.strategy.cp_comm_type = exchange;
            mock(&mut finetune).micro_batch_size = 2;
            let text = &finetune.model.as_llava().unwrap().text_config;
            on_mesh(sizes, |mesh| {
                let mut trainer = trainer(&finetune, mesh.clone());
                let batches = microbatches(&finetune, &samples, &mesh, 0);
                trainer.accumulate(&batches).unwrap();
                let (mut keys, mut forward, mut backward) = (0, 0, 0);
                for Microbatch { batch, .. } in &batches {
                    let size = batch.input_ids_bs.size();
                    let layer = KeysValues {
                        ranks: sizes.cp as usize,
                        b: size[0] as usize,
                        s: size[1] as usize * sizes.cp as usize,
                        heads: text.num_key_value_heads / sizes.tp as usize,
                        head_dim: text.head_dim(),
                        bytes: 4,
                    };
                    keys += text.num_hidden_layers as u64 * (layer.forward() + layer.backward());
                    let images = SharedImages {
                        tensor: sizes.tp as usize,
                        context: sizes.cp as usize,
                        images: batch.pixels.as_ref().map_or(0, |pixels| pixels.size()[0] as usize),
                        features: IMAGE_LEN * text.hidden_size,
                        bytes: 4,
                    };
                    forward += images.forward();
                    backward += images.backward();
                }
                assert!(keys > 0 && forward > 0 && backward > 0);
                let moved = ["send", "all_gather", "reduce_scatter"];
                let mut expected = vec![("context", keys + backward)];
                if sizes.tp == 1 {
                    expected[0].1 += forward;
                } else {
                    expected.push(("tp_cp", forward));
                }
                for (group, bytes) in expected {
                    let got = sent(&mesh, group, &moved);
                    let off = (got as f64 - bytes as f64).abs() / bytes as f64;
                    assert!(off <= 0.01, "{sizes:?}, {exchange:?}: {group} sent {got} bytes, not {bytes}");
                }
                let on_the_ring = sent(&mesh, "context", &["send"]);
                assert_eq!(on_the_ring, if exchange == CpCommType::P2p { keys } else { 0 });
                assert_eq!(mesh.axis(Axis::Context).size(), sizes.cp as usize);
            });
        }
    });
}
