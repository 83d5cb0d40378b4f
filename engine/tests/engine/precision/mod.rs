//! Mixed precision: the loss scale of fp16, the data type of gradients on their way, attention kernels, and the report of what
//! ran.

mod attention;
mod effects;
mod fp16;
mod gradients;
mod loss_scale;
