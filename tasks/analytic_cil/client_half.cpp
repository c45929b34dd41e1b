#include "tasks/analytic_cil/client_half.h"

#include <algorithm>
#include <utility>

#include "tasks/analytic_cil/statistics.h"
#include "tasks/class_stream/center.h"
#include "tasks/halves.h"

namespace trib::tasks::analytic_cil {
namespace {

class ClientHalf final : public ClientTask {
 public:
  ClientHalf(JobSpec job, Config config, SiteContext site, privacy::Mechanism mechanism,
             std::unique_ptr<kernels::Stream> stream, Buffer buffer, std::vector<Record> records)
      : job_(std::move(job)),
        config_(std::move(config)),
        site_(std::move(site)),
        mechanism_(mechanism),
        stream_(std::move(stream)),
        buffer_(std::move(buffer)),
        records_(std::move(records)) {}

  Result<privacy::Charge> charge(const RoundPlan& plan) const override {
    return round_charge(job_, site_, plan, mechanism_);
  }

  Status set_constants(const TensorMap& constants) override {
    return class_stream::take_center(*stream_, config_, constants, buffer_);
  }

  Result<privacy::Contribution> train(const TensorMap& broadcast, const RoundPlan& plan,
                                      privacy::PrivacySession& privacy, Progress& progress) override {
    TRIB_TRY(broadcast.check_schema(TensorSchema()));
    TRIB_TRY(class_stream::check_center(config_, buffer_));
    if (progress.cancelled()) return Error{Errc::cancelled, "the round was cancelled"};
    progress.fraction("summing", 0.0);
    TRIB_ASSIGN(TensorMap statistics,
                release_statistics(*stream_, privacy, records_, config_, buffer_, job_.privacy.clip_norm,
                                   job_.privacy.clipping, plan.last_counted + 1, plan.round));
    progress.fraction("summing", 1.0);
    return privacy.contribute(std::move(statistics), 1.0);
  }

 private:
  JobSpec job_;
  Config config_;
  SiteContext site_;
  privacy::Mechanism mechanism_;
  std::unique_ptr<kernels::Stream> stream_;
  Buffer buffer_;
  privacy::RecordStore<Record> records_;
};

}  // namespace

Result<std::unique_ptr<ClientTask>> make_client(const JobSpec& job, const SiteContext& site) {
  TRIB_ASSIGN(Config config, config_of(job));
  SiteContext context = site;
  if (!context.shared) context.shared = std::make_shared<SharedResources>();
  TRIB_ASSIGN(const privacy::Mechanism mechanism, round_mechanism(job, site.declared_records));
  TRIB_ASSIGN(const std::shared_ptr<class_stream::ItemFeatures> items, class_stream::open_site_items(config, context));
  auto stream = site.devices.front()->make_stream();
  TRIB_ASSIGN(Buffer buffer, class_stream::shared_buffer(*stream, config, items->width(), *context.shared));
  TRIB_TRY(class_stream::check_features(*stream, config, *items, buffer));
  TRIB_ASSIGN(std::vector<Record> records,
              class_stream::read_records(site.data_file, config, *items, site.progress.get()));
  return std::unique_ptr<ClientTask>(std::make_unique<ClientHalf>(
      job, std::move(config), std::move(context), mechanism, std::move(stream), std::move(buffer), std::move(records)));
}

}  // namespace trib::tasks::analytic_cil
