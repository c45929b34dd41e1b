// Records whose gradient is written in them, so that a whole DP-SGD step has a known answer.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "ledger_fixture.h"
#include "privacy/session.h"

namespace trib::privacy {

// A record and its gradient, spread over the tensors of VectorModel.
struct VectorRecord {
  std::vector<float> gradient;
};

// "Trains" one tensor of `vector_size` elements and, if outer_size > 0, one of (outer_size, 1), whose gradients come as
// outer products: the two forms a model may use. A record's gradient has vector_size + outer_size elements.
struct VectorModel {
  std::int64_t vector_size = 1;
  std::int64_t outer_size = 0;
  std::int64_t micro_batch = 64;
  std::int64_t columns = 0;  // above 0: the first tensor is a table with so many
  bool gives_rows = false;   // whose gradients come as the rows in which they are not zero

  Shape vector_shape() const { return columns > 0 ? Shape{vector_size / columns, columns} : Shape{vector_size}; }
  std::vector<kernels::Tensor> parameters(kernels::Stream& stream) const {
    std::vector<kernels::Tensor> tensors{kernels::Tensor::zeros(stream, DType::f32, vector_shape())};
    if (outer_size > 0) tensors.push_back(kernels::Tensor::zeros(stream, DType::f32, {outer_size, 1}));
    return tensors;
  }

  GradientFunctions<VectorRecord> functions(kernels::Stream& stream) const {
    GradientFunctions<VectorRecord> functions;
    functions.micro_batch = micro_batch;
    functions.per_sample = [model = *this, &stream](std::span<const VectorRecord* const> records,
                                                    kernels::PerSampleGradients& out) {
      const auto count = static_cast<std::int64_t>(records.size());
      out.sample_count = count;
      out.tensors.clear();
      const auto upload = [&](std::int64_t first, std::int64_t size) {
        std::vector<float> values;
        for (const VectorRecord* record : records) {
          values.insert(values.end(), record->gradient.begin() + first, record->gradient.begin() + first + size);
        }
        return kernels::Tensor::from_host(stream, HostTensor::from_f32({count, size}, values));
      };
      kernels::PerSampleGradient vector;
      vector.name = "vector";
      vector.shape = model.vector_shape();
      if (model.gives_rows) {
        model.give_rows(stream, records, vector);
      } else {
        vector.values = upload(0, model.vector_size);
      }
      out.tensors.push_back(vector);
      if (model.outer_size > 0) {
        kernels::PerSampleGradient outer;
        outer.name = "outer";
        outer.shape = {model.outer_size, 1};
        outer.output_grads = upload(model.vector_size, model.outer_size);
        const std::vector<float> ones(records.size(), 1.0f);
        outer.inputs = kernels::Tensor::from_host(stream, HostTensor::from_f32({count, 1}, ones));
        out.tensors.push_back(outer);
      }
      const std::vector<float> losses(records.size(), 1.0f);
      out.losses = kernels::Tensor::from_host(stream, std::span<const float>(losses));
    };
    functions.summed = [model = *this, &stream](std::span<const VectorRecord* const> records,
                                                const std::vector<kernels::Tensor>& sums, const kernels::Tensor& loss) {
      for (const VectorRecord* record : records) {
        const auto values = std::span(record->gradient).first(static_cast<std::size_t>(model.vector_size));
        kernels::axpy(stream, 1.0,
                      kernels::Tensor::from_host(stream, HostTensor::from_f32({model.vector_size}, values)),
                      sums.at(0));
      }
      const std::vector<float> losses(records.size(), 1.0f);
      kernels::add_sum(stream, kernels::Tensor::from_host(stream, std::span<const float>(losses)), loss);
    };
    return functions;
  }

  void give_rows(kernels::Stream& stream, std::span<const VectorRecord* const> records,
                 kernels::PerSampleGradient& table) const {
    std::vector<float> values;
    std::vector<std::int32_t> rows;
    std::vector<std::int64_t> ends;
    for (const VectorRecord* record : records) {
      for (std::int64_t row = 0; row < vector_size / columns; ++row) {
        const auto part = std::span(record->gradient)
                              .subspan(static_cast<std::size_t>(row * columns), static_cast<std::size_t>(columns));
        if (std::ranges::all_of(part, [](float value) { return value == 0.0f; })) continue;
        values.insert(values.end(), part.begin(), part.end());
        rows.push_back(static_cast<std::int32_t>(row));
      }
      ends.push_back(std::ssize(rows));
    }
    table.values = kernels::Tensor::from_host(stream, HostTensor::from_f32({std::ssize(rows), columns}, values));
    table.rows = kernels::Tensor::from_host(stream, std::span<const std::int32_t>(rows));
    table.row_ends = kernels::Tensor::from_host(stream, std::span<const std::int64_t>(ends));
  }
};

// One step; returns the report and the noised mean gradient of all tensors, end to end.
inline std::pair<StepReport, std::vector<float>> step(PrivacySession& session, const RecordStore<VectorRecord>& records,
                                                      const VectorModel& model, kernels::Stream& stream) {
  std::vector<float> gradient;
  const StepReport report =
      session
          .dp_sgd_step<VectorRecord>(stream, records, model.parameters(stream), model.functions(stream),
                                     [&](const std::vector<kernels::Tensor>& gradients) {
                                       for (const kernels::Tensor& tensor : gradients) {
                                         const HostTensor host = tensor.to_host(stream);
                                         const auto values = host.as<float>();
                                         gradient.insert(gradient.end(), values.begin(), values.end());
                                       }
                                     })
          .value();
  return {report, gradient};
}
inline std::pair<StepReport, std::vector<float>> step(PrivacySession& session, const RecordStore<VectorRecord>& records,
                                                      const VectorModel& model) {
  static const std::unique_ptr<kernels::Stream> stream = kernels::cpu_device().make_stream();
  return step(session, records, model, *stream);
}

// A session over a ledger of its own, without a file and with a cap that nothing reaches.
struct TestSession {
  explicit TestSession(const Mechanism& mechanism, std::int64_t declared_records, std::uint64_t seed = 1)
      : ledger(Ledger::in_memory(budget_of(1e300), clock).value()), session(open(mechanism, declared_records, seed)) {}

  PrivacySession open(const Mechanism& mechanism, std::int64_t declared_records, std::uint64_t seed) {
    Charge charge = charge_of("job", 1);
    charge.declared_records = declared_records;
    charge.mechanism = mechanism;
    return PrivacySession::open(*ledger, charge, true, RandomKey::from_seed(seed), clock).value();
  }

  ManualClock clock;
  std::unique_ptr<Ledger> ledger;
  PrivacySession session;
};

inline Mechanism gaussian(double sample_rate, double noise_multiplier, double clip_norm, std::int64_t steps) {
  return {MechanismKind::poisson_subsampled_gaussian, sample_rate, noise_multiplier, clip_norm, steps};
}

}  // namespace trib::privacy
