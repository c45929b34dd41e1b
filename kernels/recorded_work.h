// Work that is submitted again and again in a few shapes: recorded once each, and then submitted as one.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <vector>

#include "kernels/device.h"

namespace trib::kernels {

// The recordings of one piece of work, by shape. Not thread-safe.
class RecordedWork {
 public:
  explicit RecordedWork(std::size_t most = 32) : most_(most) {}

  // Submits what work() submits to `stream`. Where the stream records, the second call with a key records it, and from
  // then on the recording is submitted and work() is not called: so the key says everything that work() depends on,
  // the addresses of its tensors (Workspace::layout()) and the numbers that it passes on included. What may differ
  // between calls of one key is what the tensors hold. The recording that was not used for longest makes room for one
  // more than `most`. `work` as for Stream::record().
  void run(Stream& stream, const std::vector<std::int64_t>& key, const std::function<void()>& work);
  void clear() { entries_.clear(); }
  std::size_t size() const { return entries_.size(); }  // keys that are remembered

 private:
  struct Entry {
    std::vector<std::int64_t> key;
    std::unique_ptr<Recording> recording;
    bool refused = false;  // it cannot be recorded
  };
  std::size_t most_;
  std::list<Entry> entries_;  // the one that was used last comes first
};

}  // namespace trib::kernels
