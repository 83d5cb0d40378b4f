//! Floating point operations of training a model: one formula for all reports.
//!
//! A matrix of `p` values costs `2 p` operations for each position that it multiplies: once in the forward pass, once for the
//! gradient of its input if anything before it is trained, and once for its own gradient if it is trained. Attention costs
//! `4 d` for each pair of a query and a key that it sees, `d` being the width of all heads, and twice as much in the backward
//! pass. Recomputation, padding, norms, activations and the optimizer are not counted, so the number is the same in every
//! layout and for every implementation.

use crate::families::ModelTable;
use crate::lora::Adapters;
use crate::parameter::{Cut, ParamSpec, Part};
use crate::trainable::is_trainable;
use neva_schemas::Finetune;
use std::collections::BTreeMap;
use std::iter::zip;

/// Operations of a model in training, by what a microbatch consists of.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFlops {
    with_images: Rates,
    text_only: Rates,
}

/// Operations of forward and backward pass together.
#[derive(Debug, Clone, Default, PartialEq)]
struct Rates {
    /// For each position.
    token: f64,
    /// For each labelled position: the head.
    label: f64,
    /// For each image.
    image: f64,
    /// For each pair of a query and a key, by the decoder's layers: the window, and the operations.
    attention: Vec<(Option<usize>, f64)>,
}

/// A matrix product of the model.
struct Product<'a> {
    spec: &'a ParamSpec,
    /// Place in the order of the forward pass. Linears of the same input have the same place.
    place: usize,
}

impl ModelFlops {
    /// Returns the formula for a model with the parameters `specs` and their `adapters`.
    pub fn of(table: &ModelTable, specs: &[ParamSpec], adapters: &Adapters, finetune: &Finetune) -> Self {
        let own: Vec<_> = specs.iter().filter(|spec| spec.part != Part::Adapter).collect();
        let places = places(&own);
        let head = table.head_weight();
        let products: Vec<_> = zip(&own, &places)
            .filter(|(spec, _)| is_product(spec, head.as_deref()))
            .map(|(spec, place)| Product {
                spec,
                // A tied head has the row of the embedding.
                place: if head.as_deref() == Some(&spec.name) { usize::MAX } else { *place },
            })
            .collect();
        let of_linear: BTreeMap<_, _> = products
            .iter()
            .filter_map(|product| Some((product.spec.lora.as_ref()?.linear.as_str(), product)))
            .collect();
        // An A that several linears share counts once.
        let mut adapter_places = BTreeMap::new();
        for (linear, adapter) in &adapters.linears {
            let Some(product) = of_linear.get(linear.as_str()) else { continue };
            for name in [&adapter.a, &adapter.b] {
                adapter_places.entry(name.as_str()).or_insert(product.place);
            }
        }
        let trained = zip(&own, &places)
            .filter(|(spec, _)| spec.used && is_trainable(spec, finetune))
            .map(|(spec, place)| (spec.part, *place));
        let adapted = products
            .iter()
            .filter(|product| {
                product
                    .spec
                    .lora
                    .as_ref()
                    .is_some_and(|lora| adapters.linears.contains_key(&lora.linear))
            })
            .map(|product| (product.spec.part, product.place));
        let trained: Vec<_> = trained.chain(adapted).collect();
        let rates = |images: bool| {
            // Without images, nothing before the language model computes.
            let runs = |part: Part| images || part == Part::Language;
            let first = trained.iter().filter(|(part, _)| runs(*part)).map(|(_, place)| *place).min();
            let count = Count {
                table,
                finetune,
                head: head.as_deref(),
                images,
                first_trained: first.unwrap_or(usize::MAX),
            };
            let mut rates = Rates::default();
            for product in products.iter().filter(|product| runs(product.spec.part)) {
                count.product(product, &mut rates);
            }
            let places = specs.iter().filter(|spec| spec.part == Part::Adapter && runs(spec.owner()));
            for (spec, place) in places.filter_map(|spec| Some((spec, *adapter_places.get(spec.name.as_str())?))) {
                count.adapter(spec, place, adapters, &mut rates);
            }
            count.attention(&products, &mut rates);
            rates
        };
        Self {
            with_images: rates(true),
            text_only: rates(false),
        }
    }

    /// Returns the operations of a microbatch with samples of these `lengths`, `labels` labelled positions and `images`.
    pub fn of_microbatch(&self, lengths: &[usize], labels: u64, images: u64) -> f64 {
        let rates = if images > 0 { &self.with_images } else { &self.text_only };
        let tokens: usize = lengths.iter().sum();
        let attention = rates.attention.iter().map(|(window, each)| {
            let pairs: f64 = lengths.iter().map(|length| pairs(*length, *window)).sum();
            pairs * each
        });
        tokens as f64 * rates.token + labels as f64 * rates.label + images as f64 * rates.image + attention.sum::<f64>()
    }
}

/// Counts products of a model, of which everything from `first_trained` on has a gradient.
struct Count<'a> {
    table: &'a ModelTable,
    finetune: &'a Finetune,
    head: Option<&'a str>,
    images: bool,
    first_trained: usize,
}

impl Count<'_> {
    fn product(&self, product: &Product<'_>, rates: &mut Rates) {
        let Product { spec, place } = *product;
        // Pixels have no gradient.
        let reads_gradient = self.first_trained < place && !is_convolution(spec);
        let times = 1 + usize::from(reads_gradient) + usize::from(is_trainable(spec, self.finetune));
        self.add(spec, times, rates);
    }

    /// Adds a matrix of an adapter. B always passes a gradient on to A.
    fn adapter(&self, spec: &ParamSpec, place: usize, adapters: &Adapters, rates: &mut Rates) {
        let is_a = adapters.linears.values().any(|adapter| adapter.a == spec.name);
        let times = 2 + usize::from(!is_a || self.first_trained < place);
        if spec.shape.len() == 2 {
            self.add(spec, times, rates);
        }
    }

    fn add(&self, spec: &ParamSpec, times: usize, rates: &mut Rates) {
        let each = (2 * times * spec.numel()) as f64;
        let description = &self.table.description;
        match spec.owner() {
            Part::Vision => {
                let tower = description.vision.as_ref().map(|tower| &tower.config);
                // The patch embedding, a convolution, has no class token.
                let without = tower.is_some_and(|config| is_convolution(spec) && config.model_type.has_class_token());
                let positions = tower.map_or(0, |config| config.tokens()) - usize::from(without);
                rates.image += positions as f64 * each;
            }
            Part::Projection => rates.image += description.image_seq_length() as f64 * each,
            Part::Language | Part::Adapter if self.head == Some(&spec.name) => rates.label += each,
            Part::Language | Part::Adapter => rates.token += each,
        }
    }

    /// Adds attention: of the vision encoder for each image, of the decoder for each pair of positions. The linear behind the
    /// attention of a layer tells whether its queries, keys and values have a gradient.
    fn attention(&self, products: &[Product<'_>], rates: &mut Rates) {
        let description = &self.table.description;
        let times = |output: Option<&&Product<'_>>| match output {
            Some(product) if self.first_trained < product.place => 3.0,
            _ => 1.0,
        };
        if let Some(tower) = description.vision.as_ref().filter(|_| self.images) {
            let layers = tower.layers_used();
            let linears: Vec<_> = products.iter().filter(|product| is_vision_linear(product.spec)).collect();
            let pairs = (tower.config.tokens() as f64).powi(2);
            for layer in linears.chunks((linears.len() / layers.max(1)).max(1)).take(layers) {
                // Every family has query, key, value and output, in this order.
                rates.image += 4.0 * tower.config.hidden_size as f64 * pairs * times(layer.get(3).or(layer.last()));
            }
        }
        if let Some(decoder) = &description.decoder {
            let config = &decoder.config;
            let width = (config.num_attention_heads * config.head_dim()) as f64;
            let outputs: Vec<_> = products
                .iter()
                .filter(|product| product.spec.part == Part::Language && product.spec.cut == Cut::Row)
                .collect();
            // The first of a layer's row-parallel linears is that of attention.
            let each = outputs.len() / config.num_hidden_layers.max(1);
            for layer in 0..config.num_hidden_layers {
                let times = times(outputs.get(layer * each));
                rates.attention.push((config.window(layer), 4.0 * width * times));
            }
        }
    }
}

/// Returns the place of each parameter in the order of the forward pass. Column-parallel linears beside each other read the same
/// input.
fn places(specs: &[&ParamSpec]) -> Vec<usize> {
    let mut place = 0;
    let beside = |pair: (&ParamSpec, &ParamSpec)| {
        let (before, spec) = pair;
        [before.cut, spec.cut] == [Cut::Column; 2] && before.stage == spec.stage && before.part == spec.part
    };
    let mut places = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        let same = index > 0 && beside((specs[index - 1], spec));
        place += usize::from(!same);
        places.push(place);
    }
    places
}

/// Returns whether a parameter is a factor of a matrix product. Embeddings are looked up, norms and biases are no matrices.
fn is_product(spec: &ParamSpec, head: Option<&str>) -> bool {
    let is_head = head == Some(&spec.name);
    spec.used && (is_head || is_convolution(spec) || spec.lora.is_some())
}

/// Returns whether a parameter is the patch embedding.
fn is_convolution(spec: &ParamSpec) -> bool {
    spec.part == Part::Vision && spec.shape.len() == 4
}

fn is_vision_linear(spec: &ParamSpec) -> bool {
    spec.part == Part::Vision && spec.lora.is_some()
}

/// Returns the number of keys that the queries of a sample see together.
fn pairs(length: usize, window: Option<usize>) -> f64 {
    let seen = window.map_or(length, |window| window.min(length));
    let triangle = |n: usize| n as f64 * (n as f64 + 1.0) / 2.0;
    triangle(seen) + (length - seen) as f64 * seen as f64
}
