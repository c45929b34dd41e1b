// Any bytes as each message that a peer can send, and what is then done with it before anybody is trusted.
#include <gtest/gtest.h>

#include "common/net/enrolment.h"
#include "common/net/transfer.h"
#include "proto/tributary.pb.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

using namespace tributary::proto;

const trib::TensorSchema& expected_schema() {
  static const trib::TensorSchema schema({{"b", trib::DType::f32, {4, 2}}, {"head", trib::DType::f64, {3}}});
  return schema;
}

// Announcement and bytes of a transfer, as a session takes them.
void receive_transfer(const Transfer& transfer, std::span<const std::byte> bytes) {
  auto receiver = trib::net::TensorReceiver::begin(transfer, expected_schema(), 1u << 20);
  if (!receiver) return;
  std::size_t at = 0;
  while (at < bytes.size()) {
    const auto piece = bytes.subspan(at, std::min<std::size_t>(5, bytes.size() - at));
    const auto complete = receiver->add({transfer.id(), at, piece});
    if (!complete) return;
    at += piece.size();
    if (*complete) break;
  }
  const auto tensors = receiver->finish();
  if (tensors && (tensors->schema() != expected_schema() || !tensors->check_finite())) std::abort();
}

template <typename Message>
trib::Result<Message> parse(std::span<const std::byte> bytes) {
  trib::net::Frame frame;
  frame.message = bytes;
  return trib::net::parse_message<Message>(frame);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  if (const auto message = parse<ClientMessage>(bytes); message && message->has_contribution_start())
    receive_transfer(message->contribution_start().transfer(), bytes);
  if (const auto message = parse<ServerMessage>(bytes)) {
    if (message->has_job_offer()) trib::net::from_proto(message->job_offer().broadcast_schema()).ok();
    if (message->has_round_start()) receive_transfer(message->round_start().transfer(), bytes);
  }
  if (const auto request = parse<EnrolRequest>(bytes)) {
    trib::net::check_certificate_request(request->certificate_request_pem()).ok();
    trib::net::Certificate::from_pem(request->lapsed_certificate_pem()).ok();
  }
  parse<AdminRequest>(bytes).ok();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto invite = trib::net::parse_token(text))
    if (trib::net::parse_token(trib::net::make_token(*invite))->SerializeAsString() != invite->SerializeAsString())
      std::abort();
  return 0;
}

#ifndef TRIBUTARY_LIBFUZZER
namespace {

TEST(MessageFuzz, SurvivesItsCorpus) {
  trib::TensorMap tensors;
  tensors["b"] = trib::HostTensor(trib::DType::f32, {4, 2});
  tensors["head"] = trib::HostTensor(trib::DType::f64, {3});
  ClientMessage contribution;
  contribution.mutable_contribution_start()->set_job_id("job-1");
  *contribution.mutable_contribution_start()->mutable_transfer() = trib::net::announce(1, tensors, {});
  ServerMessage offer;
  offer.mutable_job_offer()->set_job_file("[job]");
  *offer.mutable_job_offer()->mutable_broadcast_schema() = trib::net::to_proto(expected_schema());
  EnrolRequest enrolment;
  enrolment.set_secret(std::string(32, 's'));
  enrolment.set_certificate_request_pem(
      trib::net::make_certificate_request(trib::net::PrivateKey::generate(), "clinic-7"));
  AdminRequest admin;
  admin.mutable_create_invite()->set_site("clinic-7");
  Invite invite;
  invite.set_site("clinic-7");
  invite.add_addresses("a:1");
  invite.set_ca_sha256(std::string(32, 'c'));
  invite.set_secret(std::string(32, 's'));
  EXPECT_GT(
      trib::fuzz::run_corpus({contribution.SerializeAsString(), offer.SerializeAsString(),
                              enrolment.SerializeAsString(), admin.SerializeAsString(), trib::net::make_token(invite)},
                             4'000),
      20'000u);
}

}  // namespace
#endif
