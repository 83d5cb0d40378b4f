//! The messages of an event file: what we write of TensorFlow's `event.proto` and `summary.proto`.

use prost::Message;

/// Version of the format; the first event of a file tells it.
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
    /// A field of a `oneof`: it is written where it is 0, too.
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
    /// Events of this step and later ones in earlier files no longer count.
    Start = 1,
}

impl Event {
    /// What a file begins with: its version, and the step from which on earlier files no longer count.
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

    /// Values of a step, each under its tag.
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
