//! LLaVA-1.5 (arXiv:2310.03744), as `transformers.LlavaModel`: features of the pictures take the places
//! of their placeholders in the text's embedding.

use super::clip::ClipVision;
use super::llama::{Decoding, Llama};
use super::projector::Projector;
use crate::error::{EngineError, Result};
use crate::nn::{Arrival, Build, Segments};
use crate::parallel::PictureShares;
use neva_layout::Section;
use neva_schemas::{FeatureSelect, LlavaModel};
use tch::Tensor;

/// A merged batch on the model's device.
#[derive(Debug)]
pub struct Batch {
    /// Token ids `[b, s]`; negative at the positions of pictures.
    pub input_ids_bs: Tensor,
    /// Target of each position `[b, s]`; negative where nothing is trained.
    pub labels_bs: Tensor,
    /// Segment bounds.
    pub segments: Segments,
    /// Pictures `[pictures, channels, height, width]`, if there are any; a section without the vision encoder needs none.
    pub pixels: Option<Tensor>,
    /// Positions of the pictures' features in the flattened `[b * s]`, in order.
    pub image_positions: Tensor,
    /// Rows of the flattened features that are used, one for each of these positions; `None` for all of them.
    pub feature_rows: Option<Tensor>,
}

/// The model up to the last hidden state, or a section of it.
#[derive(Debug)]
pub struct Llava {
    pictures: Option<Pictures>,
    language: Llama,
}

/// From pictures to what takes the places of their placeholders.
#[derive(Debug)]
struct Pictures {
    vision: ClipVision,
    projector: Projector,
    shares: PictureShares,
    arrival: Arrival,
    select: FeatureSelect,
}

impl Llava {
    /// Takes the parameters of a section.
    pub fn new(config: &LlavaModel, section: &Section, build: &Build<'_>) -> Result<Self> {
        let pictures = || {
            let whole = build.whole_sequences();
            Ok::<_, EngineError>(Pictures {
                vision: ClipVision::new(&config.vision_config, config.vision_layers_used(), &whole.at("model.vision_tower"))?,
                projector: Projector::new(&whole.at("model.multi_modal_projector"))?,
                shares: build.pictures(),
                arrival: build.at("model").arrival(),
                select: config.vision_feature_select_strategy,
            })
        };
        Ok(Self {
            pictures: section.first.then(pictures).transpose()?,
            language: Llama::new(&config.text_config, section, &build.at("model.language_model"))?,
        })
    }

    /// Whether this section starts with the vision encoder.
    pub fn sees_pictures(&self) -> bool {
        self.pictures.is_some()
    }

    /// Hidden states `[b, s, h]` from those of the section before, or from the batch where there is none; the loss
    /// applies the head.
    pub fn forward(&self, batch: &Batch, before_bsh: Option<&Tensor>) -> Result<Tensor> {
        let hidden_bsh = match before_bsh {
            Some(before_bsh) => before_bsh.shallow_clone(),
            None => self.language.enter(&self.embed(batch)?)?,
        };
        self.language.forward(&hidden_bsh, batch.input_ids_bs.size()[1], &batch.segments)
    }

    /// An empty memory for [`Self::decode`].
    pub fn decoding(&self) -> Decoding {
        self.language.decoding()
    }

    /// Hidden states of one sequence behind what `decoding` remembers.
    pub fn decode(&self, batch: &Batch, decoding: &mut Decoding) -> Result<Tensor> {
        self.language.decode(&self.embed(batch)?, decoding)
    }

    /// Features `[pictures, s, h]` in the language model's width.
    pub fn image_features(&self, pixels: &Tensor) -> Result<Tensor> {
        let Some(Pictures {
            vision,
            projector,
            arrival,
            select,
            ..
        }) = &self.pictures
        else {
            return Err(EngineError::Bug("this section of the model sees no pictures".into()));
        };
        arrival.wait_for("vision_tower")?;
        let hidden_bsh = vision.forward(pixels)?;
        let selected_bsh = match select {
            FeatureSelect::Default => hidden_bsh.narrow(1, 1, hidden_bsh.size()[1] - 1),
            FeatureSelect::Full => hidden_bsh,
        };
        arrival.wait_for("multi_modal_projector")?;
        projector.forward(&selected_bsh)
    }

    /// Embedding of the text, with the pictures' features in their places.
    fn embed(&self, batch: &Batch) -> Result<Tensor> {
        let embeds_bsh = self.language.embed(&batch.input_ids_bs.clamp_min(0))?;
        let (Some(pixels), Some(pictures)) = (&batch.pixels, &self.pictures) else {
            if batch.image_positions.numel() > 0 {
                return Err(EngineError::Bug("pictures without pixels where they are needed".into()));
            }
            return Ok(embeds_bsh);
        };
        let own_bsh = self.image_features(&pictures.shares.own(pixels).to_kind(embeds_bsh.kind()))?;
        let mut features_th = pictures.shares.exchange(&own_bsh, pixels.size()[0])?.flatten(0, 1);
        if let Some(rows) = &batch.feature_rows {
            features_th = features_th.index_select(0, rows);
        }
        let flat_th = embeds_bsh.flatten(0, 1).index_copy(0, &batch.image_positions, &features_th);
        Ok(flat_th.view_as(&embeds_bsh))
    }
}
