#include <algorithm>

#include "common/hash.h"
#include "kernels/host_matrix.h"
#include "kernels/per_sample.h"
#include "tasks/cold_start/halves.h"
#include "tasks/dp_sgd_round.h"
#include "tasks/halves.h"

namespace trib::tasks::cold_start {
namespace {

// What the sites of one process share: the catalogue, and the model over it, which holds no parameters.
struct SharedModel {
  Catalogue catalogue;
  std::unique_ptr<Recommender<float>> model;
};

class ClientHalf final : public ClientTask {
 public:
  ClientHalf(JobSpec job, Config config, SiteContext site, privacy::Mechanism mechanism, std::vector<SiteUser> users)
      : job_(std::move(job)),
        config_(std::move(config)),
        site_(std::move(site)),
        mechanism_(mechanism),
        users_(std::move(users)) {}

  Result<privacy::Charge> charge(const RoundPlan& plan) const override {
    return round_charge(job_, site_, plan, mechanism_);
  }

  Status set_constants(const TensorMap& constants) override {
    const std::string key =
        "cold_start/model/" + to_hex(constants.digest()) + "/" + to_hex(sha256(std::string_view(job_.file_text)));
    TRIB_ASSIGN(shared_, site_.shared->get<SharedModel>(key, [&]() -> Result<std::shared_ptr<SharedModel>> {
      auto made = std::make_shared<SharedModel>();
      TRIB_ASSIGN(made->catalogue, Catalogue::from_tensors(constants));
      made->model = std::make_unique<Recommender<float>>(config_.model, made->catalogue);
      return made;
    }));
    TRIB_ASSIGN(std::vector<UserRecord> records, resolve(users_, shared_->catalogue, site_.data_file.string()));
    records_ = std::make_unique<privacy::RecordStore<UserRecord>>(std::move(records));
    return {};
  }

  Result<privacy::Contribution> train(const TensorMap& broadcast, const RoundPlan& plan,
                                      privacy::PrivacySession& privacy, Progress& progress) override {
    if (!records_) return Error{Errc::internal, "the job's catalogue has not arrived"};
    const models::ParameterLayout& layout = shared_->model->layout();
    TRIB_TRY(broadcast.check_schema(parameter_schema(layout)));
    TRIB_TRY(broadcast.check_finite());
    TRIB_ASSIGN(const std::vector<float> before, from_tensors(broadcast, layout));
    parameters_ = before;
    const auto stream = site_.devices.front()->make_stream();
    std::vector<kernels::Tensor> shapes;
    for (const auto& block : layout.blocks()) shapes.emplace_back(*site_.devices.front(), DType::f32, block.shape);
    for (std::int64_t step = 1; step <= config_.local_steps; ++step) {
      if (progress.cancelled()) return Error{Errc::cancelled, "training was cancelled"};
      // Public, and another for every step of the job.
      step_ = (static_cast<std::uint64_t>(plan.round) << 24) + static_cast<std::uint64_t>(step);
      draw_ = shared_->model->draw_step(job_.seed, step_);
      TRIB_ASSIGN(const privacy::StepReport report,
                  privacy.dp_sgd_step<UserRecord>(*stream, *records_, shapes, functions(*stream),
                                                  [&](const auto& gradients) { update(*stream, gradients); }));
      progress.step(report.step, config_.local_steps, report.mean_loss);
    }
    const auto scale = static_cast<float>(1.0 / (config_.learning_rate * static_cast<double>(config_.local_steps)));
    std::vector<float> gradient(before.size());
    for (std::size_t i = 0; i < before.size(); ++i) gradient[i] = scale * (before[i] - parameters_[i]);
    // One person is one vote, whoever adds the noise.
    const bool is_person = job_.selection.order == SelectionOrder::poisson;
    return privacy.contribute(to_tensors(gradient, layout),
                              is_person ? 1.0 : static_cast<double>(site_.declared_records));
  }

 private:
  privacy::GradientFunctions<UserRecord> functions(kernels::Stream& stream) {
    // A micro-batch's gradients take at most 64 MiB.
    const auto bytes = static_cast<std::int64_t>(parameters_.size() * sizeof(float));
    return {.per_sample = [&](auto records, kernels::PerSampleGradients& out) { per_sample(stream, records, out); },
            .summed = [&](auto records, const auto& sums,
                          const kernels::Tensor& loss) { summed(stream, records, sums, loss); },
            .micro_batch = std::clamp<std::int64_t>((std::int64_t{64} << 20) / bytes, 1, 512),
            .arrange = {}};
  }

  void per_sample(kernels::Stream& stream, std::span<const UserRecord* const> records,
                  kernels::PerSampleGradients& out) {
    const models::ParameterLayout& layout = shared_->model->layout();
    const std::int64_t count = std::ssize(records);
    std::vector<std::vector<models::BlockGradient>> gradients(records.size());
    HostTensor losses(DType::f32, {count});
    kernels::host_parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> gradient(layout.size(), 0.0f);
      for (std::int64_t i = begin; i < end; ++i) {
        const auto record = static_cast<std::size_t>(i);
        const UserDraw user = shared_->model->draw_user(*records[record], job_.seed, step_);
        losses.as<float>()[record] =
            static_cast<float>(shared_->model->add_gradient(parameters_, draw_, std::span(&user, 1), gradient).front());
        gradients[record] = models::take_gradient(layout, gradient);
      }
    });
    out.sample_count = count;
    out.losses = kernels::Tensor::from_host(stream, losses);
    out.tensors.clear();
    for (std::size_t b = 0; b < layout.blocks().size(); ++b) {
      std::vector<float> values;
      std::vector<std::int32_t> rows;
      std::vector<std::int64_t> ends;
      for (auto& gradient : gradients) {
        values.insert(values.end(), gradient[b].values.begin(), gradient[b].values.end());
        rows.insert(rows.end(), gradient[b].rows.begin(), gradient[b].rows.end());
        ends.push_back(std::ssize(rows));
        gradient[b] = {};
      }
      const auto& block = layout.blocks()[b];
      kernels::PerSampleGradient tensor;
      tensor.name = block.name;
      tensor.shape = block.shape;
      if (block.is_table) {
        tensor.values = kernels::Tensor::from_host(
            stream, HostTensor::from_f32({std::ssize(rows), block.shape[1]}, std::span<const float>(values)));
        tensor.rows = kernels::Tensor::from_host(stream, std::span<const std::int32_t>(rows));
        tensor.row_ends = kernels::Tensor::from_host(stream, std::span<const std::int64_t>(ends));
      } else {
        tensor.values = kernels::Tensor::from_host(
            stream,
            HostTensor::from_f32({count, static_cast<std::int64_t>(block.size)}, std::span<const float>(values)));
      }
      out.tensors.push_back(std::move(tensor));
    }
  }

  void summed(kernels::Stream& stream, std::span<const UserRecord* const> records,
              const std::vector<kernels::Tensor>& sums, const kernels::Tensor& loss) {
    std::vector<UserDraw> users;
    for (const UserRecord* record : records) users.push_back(shared_->model->draw_user(*record, job_.seed, step_));
    const models::ParameterLayout& layout = shared_->model->layout();
    std::vector<float> gradient(layout.size(), 0.0f);
    const std::vector<double> losses = shared_->model->add_gradient(parameters_, draw_, users, gradient);
    for (std::size_t b = 0; b < sums.size(); ++b) {
      const auto& block = layout.blocks()[b];
      const std::span<const float> part = std::span<const float>(gradient).subspan(block.offset, block.size);
      kernels::axpy(stream, 1.0, kernels::Tensor::from_host(stream, HostTensor::from_f32(block.shape, part)), sums[b]);
    }
    const std::vector<float> narrow(losses.begin(), losses.end());
    kernels::add_sum(stream, kernels::Tensor::from_host<float>(stream, std::span<const float>(narrow)), loss);
  }

  void update(kernels::Stream& stream, const std::vector<kernels::Tensor>& gradients) {
    const auto& blocks = shared_->model->layout().blocks();
    for (std::size_t b = 0; b < gradients.size(); ++b) {
      const HostTensor gradient = gradients[b].to_host(stream);
      const std::span<const float> values = gradient.as<float>();
      for (std::size_t i = 0; i < values.size(); ++i)
        parameters_[blocks[b].offset + i] -= static_cast<float>(config_.learning_rate) * values[i];
    }
  }

  JobSpec job_;
  Config config_;
  SiteContext site_;
  privacy::Mechanism mechanism_;
  std::vector<SiteUser> users_;
  std::shared_ptr<SharedModel> shared_;
  std::unique_ptr<privacy::RecordStore<UserRecord>> records_;
  std::vector<float> parameters_;  // while it trains
  std::uint64_t step_ = 0;
  StepDraw draw_;
};

}  // namespace

Result<privacy::Mechanism> round_mechanism(const JobSpec& job, const Config& config, std::int64_t declared_records) {
  return dp_sgd_round(job, config.batch_size, config.local_steps, declared_records, "users");
}

Result<std::unique_ptr<ClientTask>> make_client(const JobSpec& job, const SiteContext& site) {
  TRIB_ASSIGN(Config config, config_of(job));
  SiteContext context = site;
  if (!context.shared) context.shared = std::make_shared<SharedResources>();
  TRIB_ASSIGN(const privacy::Mechanism mechanism, round_mechanism(job, config, site.declared_records));
  TRIB_ASSIGN(std::vector<SiteUser> users, read_site_file(site.data_file));
  return std::unique_ptr<ClientTask>(
      std::make_unique<ClientHalf>(job, std::move(config), std::move(context), mechanism, std::move(users)));
}

}  // namespace trib::tasks::cold_start
