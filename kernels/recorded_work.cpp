#include "kernels/recorded_work.h"

#include <algorithm>

namespace trib::kernels {

void RecordedWork::run(Stream& stream, const std::vector<std::int64_t>& key, const std::function<void()>& work) {
  if (!stream.records() || most_ == 0) return work();
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.key == key; });
  if (found == entries_.end()) {
    // The first time it runs as it is: memory grows to its size, algorithms are chosen, kernels are loaded.
    work();
    if (entries_.size() == most_) entries_.pop_back();
    entries_.push_front({key, nullptr});
    return;
  }
  entries_.splice(entries_.begin(), entries_, found);
  Entry& entry = entries_.front();
  if (entry.recording == nullptr && !entry.refused) {
    entry.recording = stream.record(work);
    entry.refused = entry.recording == nullptr;
  }
  if (entry.recording == nullptr) return work();
  entry.recording->submit();
}

}  // namespace trib::kernels
