#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace myemb {

// The dispatcher's handle of an op, with the C++ signature of the function that wraps it.
template <typename Signature>
auto typed_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").template typed<Signature>();
}

}  // namespace myemb
