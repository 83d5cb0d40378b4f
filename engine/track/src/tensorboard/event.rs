//! Messages of event files: the subset of TensorFlow's `event.proto` and `summary.proto` that we write.

use prost::Message;

/// Version of the format, in the first event of a file.
pub(super) const FILE_VERSION: &str = "brain.Event:2";

/// `tensorflow.Event`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    /// Seconds since the epoch.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    pub what: Option<What>,
}

/// `tensorflow.Event.what`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Value>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(string, tag = "1")]
    pub tag: String,
    /// A field of a `oneof`, which is also written if it is 0.
    #[prost(float, optional, tag = "2")]
    pub simple_value: Option<f32>,
}

/// `tensorflow.SessionLog`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionLog {
    #[prost(enumeration = "SessionStatus", tag = "1")]
    pub status: i32,
}

/// `tensorflow.SessionLog.SessionStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum SessionStatus {
    Unspecified = 0,
    /// Start of a run: events of this step and later ones in earlier files are ignored.
    Start = 1,
}

impl Event {
    /// Returns the first events of a file: its version, and the step from which on earlier files are ignored.
    pub(super) fn head(wall_time: f64, first_step: u64) -> [Self; 2] {
        let start = SessionLog {
            status: SessionStatus::Start.into(),
        };
        [
            Self {
                wall_time,
                step: 0,
                what: Some(What::FileVersion(FILE_VERSION.to_owned())),
            },
            Self {
                wall_time,
                step: first_step.cast_signed(),
                what: Some(What::SessionLog(start)),
            },
        ]
    }

    /// Returns the event of a step's values, each with its tag.
    pub(super) fn scalars(wall_time: f64, step: u64, scalars: &[(&str, f64)]) -> Self {
        let value = scalars.iter().map(|(tag, value)| Value {
            tag: (*tag).to_owned(),
            simple_value: Some(*value as f32),
        });
        Self {
            wall_time,
            step: step.cast_signed(),
            what: Some(What::Summary(Summary { value: value.collect() })),
        }
    }
}
