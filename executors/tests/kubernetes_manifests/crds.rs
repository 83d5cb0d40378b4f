//! JobSet and TrainJob against the schemas of their CRDs.
