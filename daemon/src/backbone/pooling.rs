//! What stands between a backbone's first token and the head.

use super::{Architecture, Config};
use ptv2_common::error::Explained;
use ptv2_common::spec::PoolerKind;

/// A backbone's pooler: a dense layer on the first token, then an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// BERT's: pretrained, then tanh. Every file has it.
    Pretrained,
    /// RoBERTa's and MPNet's: then tanh. Pretraining did not use it, and a file may lack it.
    Drawn,
    /// DeBERTa's: then GELU. Classifiers train it; no backbone's file has it.
    Context,
}

impl Pooling {
    /// The pooling of an architecture.
    pub fn of(config: &Config) -> Self {
        match config.architecture {
            Architecture::Bert => Self::Pretrained,
            Architecture::Roberta | Architecture::Mpnet => Self::Drawn,
            Architecture::DebertaV2 => Self::Context,
        }
    }

    /// How a job keeps a pooler of its own, since the backbone's file does not say all of it; `None`
    /// where the backbone's serves.
    ///
    /// # Errors
    /// When a DeBERTa's is to be frozen, which would leave the head a random projection for good.
    pub fn kept(self, asked: Option<PoolerKind>) -> Result<Option<PoolerKind>, Explained> {
        match (self, asked) {
            (_, Some(PoolerKind::Trained)) | (Self::Context, None) => Ok(Some(PoolerKind::Trained)),
            (Self::Pretrained, Some(PoolerKind::Frozen) | None) => Ok(None),
            (Self::Drawn, Some(PoolerKind::Frozen) | None) => Ok(Some(PoolerKind::Frozen)),
            (Self::Context, Some(PoolerKind::Frozen)) => {
                Err(Explained::new("`method.pooler` is frozen, but a DeBERTa's pooler is random")
                    .at("method.pooler")
                    .expected("trained")
                    .hint("remove the key: trained is the default for this backbone"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PoolerKind::{Frozen, Trained};

    #[test]
    fn a_pooler_is_kept_where_no_file_has_it() {
        let kept = |pooling: Pooling, asked| pooling.kept(asked).unwrap();
        for (asked, own) in [(None, None), (Some(Frozen), None), (Some(Trained), Some(Trained))] {
            assert_eq!(kept(Pooling::Pretrained, asked), own);
            assert_eq!(kept(Pooling::Drawn, asked), Some(asked.unwrap_or(Frozen)));
        }
        assert_eq!(kept(Pooling::Context, None), Some(Trained));
        let error = Pooling::Context.kept(Some(Frozen)).unwrap_err();
        assert_eq!(error.place.as_deref(), Some("method.pooler"));
    }
}
