#include "common/net/enrolment.h"

#include <algorithm>
#include <optional>

#include "common/net/coroutine.h"

namespace trib::net {
namespace {

using tributary::proto::EnrolReply;
using tributary::proto::EnrolRequest;
using tributary::proto::Invite;

constexpr std::string_view token_prefix = "trib1.";
constexpr std::size_t secret_bytes = 32;

Limits enrolment_limits() {
  Limits limits;
  limits.message_bytes = 64u << 10;
  limits.idle_timeout = limits.write_timeout = Milliseconds(20'000);
  return limits;
}

// Checks what the aggregator sent against what was asked for.
Result<Enrolment> check_reply(const EnrolReply& reply, const PrivateKey& key, const Sha256& ca_sha256) {
  if (!reply.error().empty()) return Error{errc_from_text(reply.error_code()), reply.error()};
  Enrolment enrolment;
  TRIB_ASSIGN(enrolment.certificate, Certificate::from_pem(reply.certificate_pem()));
  TRIB_ASSIGN(enrolment.ca, Certificate::from_pem(reply.ca_certificate_pem()));
  enrolment.site = reply.site();
  enrolment.federation = reply.federation();
  if (enrolment.ca.sha256() != ca_sha256)
    return Error{Errc::protocol_error, "the aggregator sent a CA certificate that is not its own"};
  if (!enrolment.certificate.issued_by(enrolment.ca) ||
      enrolment.certificate.public_key_sha256() != key.public_key_sha256() ||
      enrolment.certificate.common_name() != enrolment.site)
    return Error{Errc::protocol_error, "the aggregator sent a certificate that is not for this key and name"};
  return enrolment;
}

asio::awaitable<Result<EnrolReply>> exchange(Channel& channel, const EnrolRequest& request) {
  TRIB_CO_TRY(co_await channel.send(request));
  TRIB_CO_ASSIGN(const Frame frame, co_await channel.receive());
  TRIB_CO_ASSIGN(EnrolReply reply, parse_message<EnrolReply>(frame));
  channel.close();
  co_return reply;
}

bool is_worth_another_address(Errc code) {
  return code == Errc::unavailable || code == Errc::deadline_exceeded;
}

}  // namespace

Errc errc_from_text(std::string_view text) {
  for (int code = 0; code <= static_cast<int>(Errc::internal); ++code)
    if (to_string(static_cast<Errc>(code)) == text) return static_cast<Errc>(code);
  return Errc::internal;
}

std::string make_token(const Invite& invite) {
  const std::string bytes = invite.SerializeAsString();
  return std::string(token_prefix) +
         to_base64url(std::span(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()));
}

Result<Invite> parse_token(std::string_view token) {
  const auto wrong = [](std::string_view problem) {
    return Error{Errc::invalid_argument,
                 "the token " + std::string(problem) + ": copy it whole from the output of `trib invite`"};
  };
  if (!token.starts_with(token_prefix)) return wrong("does not start with trib1.");
  const auto bytes = from_base64url(token.substr(token_prefix.size()));
  Invite invite;
  if (!bytes || !invite.ParseFromArray(bytes->data(), static_cast<int>(bytes->size())))
    return wrong("is damaged or cut short");
  if (invite.secret().size() != secret_bytes || invite.ca_sha256().size() != Sha256{}.size() || invite.site().empty() ||
      invite.addresses().empty())
    return wrong("lacks a part");
  return invite;
}

asio::awaitable<Result<Enrolment>> enrol(asio::any_io_executor executor, Invite invite, PrivateKey key,
                                         Milliseconds timeout) {
  if (invite.ca_sha256().size() != Sha256{}.size())
    co_return Error{Errc::invalid_argument, "the token lacks the fingerprint of the federation's CA"};
  Sha256 ca_sha256{};
  std::copy_n(invite.ca_sha256().begin(), ca_sha256.size(), ca_sha256.begin());
  EnrolRequest request;
  request.set_secret(invite.secret());
  request.set_certificate_request_pem(make_certificate_request(key, invite.site()));
  Error failure{Errc::invalid_argument, "the token names no address"};
  for (const std::string& address : invite.addresses()) {
    auto channel = co_await connect_tls_pinned(executor, address, ca_sha256, enrolment_limits(), timeout);
    if (channel) {
      auto reply = co_await exchange(**channel, request);
      if (reply) co_return check_reply(*reply, key, ca_sha256);
      failure = reply.error().with_context(address);
    } else {
      failure = channel.error();
    }
    if (!is_worth_another_address(failure.code)) break;
  }
  co_return failure;
}

asio::awaitable<Result<Enrolment>> renew_lapsed(asio::any_io_executor executor, std::vector<std::string> addresses,
                                                Certificate ca, ClientCredentials lapsed, Milliseconds timeout) {
  EnrolRequest request;
  request.set_certificate_request_pem(make_certificate_request(lapsed.key, lapsed.certificate.common_name()));
  request.set_lapsed_certificate_pem(lapsed.certificate.to_pem());
  Error failure{Errc::invalid_argument, "no address of the aggregator is known"};
  for (const std::string& address : addresses) {
    auto channel = co_await connect_tls(executor, address, ca, nullptr, enrol_protocol, enrolment_limits(), timeout);
    if (channel) {
      auto reply = co_await exchange(**channel, request);
      if (reply) co_return check_reply(*reply, lapsed.key, ca.sha256());
      failure = reply.error().with_context(address);
    } else {
      failure = channel.error();
    }
    if (!is_worth_another_address(failure.code)) break;
  }
  co_return failure;
}

}  // namespace trib::net
