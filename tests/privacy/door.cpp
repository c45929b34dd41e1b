// The only door, as the compiler sees it. Compiled by CTest, never linked: without BREACH it must compile, and with
// each BREACH, which differs by one statement, it must not (CMakeLists.txt names the error that is expected).
#include "privacy/session.h"

namespace trib::privacy {

struct Record {
  int label = 0;
};

std::size_t task(PrivacySession& session, const RecordStore<Record>& records, kernels::Stream& stream,
                 const std::vector<kernels::Tensor>& parameters, const GradientFunctions<Record>& functions) {
#if !defined(BREACH)
  const auto report = session.dp_sgd_step<Record>(stream, records, parameters, functions, [](const auto&) {});
  const auto pending = session.submit_dp_sgd_step<Record>(stream, records, parameters, functions, [](const auto&) {});
  const auto sums = session.release_sum<Record>(stream, records, {}, SummandFunctions<Record>());
  return report.ok() && pending.ok() && pending->report().ok() && sums.ok() && session.contribute(TensorMap(), 1.0).ok()
             ? 1
             : 0;
#else
  (void)session, (void)records, (void)stream, (void)parameters, (void)functions;
#if BREACH == 1    // read the records
  return records.records_.size();
#elif BREACH == 2  // take them along
  const RecordStore<Record> copy = records;
  return 0;
#elif BREACH == 3  // send what nobody noised
  return Contribution(TensorMap(), 1.0, true).tensors().size();
#elif BREACH == 4  // see who was sampled
  return session.begin_step(1)->size();
#elif BREACH == 5  // a session that was not paid for
  return static_cast<std::size_t>(PrivacySession(nullptr).steps_left());
#elif BREACH == 6  // see the sum before it is noised
  return session.gradient_sum().tensors().size();
#elif BREACH == 7  // release the same sum twice
  PrivacySession again = session;
  return 0;
#elif BREACH == 8  // noise a sum whenever it pleases
  return session.gradient_sum().finish_sum(stream).size();
#elif BREACH == 9  // take the sum out with what the session holds
  return session.impl_ != nullptr;
#endif
#endif
}

}  // namespace trib::privacy
