// Kernels that return tensors. Their fake implementations are registered in Python (ops.py), and so is autograd (layers.py).

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <atomic>
#include <c10/core/ScalarType.h>
#include <torch/library.h>
#include <tuple>

namespace {

std::atomic<int64_t> calls_so_far{0}, backward_calls_so_far{0};

int64_t calls() { return calls_so_far; }
int64_t backward_calls() { return backward_calls_so_far; }

at::Tensor wide(const at::Tensor& x) { return x.to(c10::promoteTypes(x.scalar_type(), at::kFloat)); }

// The norm, and the reciprocal root mean square of each row, which the backward needs.
std::tuple<at::Tensor, at::Tensor> rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  at::AutoDispatchBelowADInplaceOrView guard;
  ++calls_so_far;
  const at::Tensor values = wide(x);
  at::Tensor scale = values.square().mean(-1, /*keepdim=*/true).add(eps).rsqrt();
  return {(values * scale).to(x.scalar_type()) * weight, scale};
}

// The norm of the sum, the sum, and the scale as above.
std::tuple<at::Tensor, at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight, double eps) {
  at::AutoDispatchBelowADInplaceOrView guard;
  at::Tensor sum = x + residual;
  auto [normalized, scale] = rms_norm(sum, weight, eps);
  return {normalized, sum, scale};
}

// The gradients of x and of weight; rows are summed up in float32.
std::tuple<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& scale) {
  at::AutoDispatchBelowADInplaceOrView guard;
  ++backward_calls_so_far;
  const at::Tensor normalized = wide(x) * scale;
  const at::Tensor wide_grad = wide(grad);
  const at::Tensor grad_weight = (wide_grad * normalized).reshape({-1, x.size(-1)}).sum(0);
  const at::Tensor grad_normalized = wide_grad * weight;
  const at::Tensor projection = (grad_normalized * normalized).mean(-1, /*keepdim=*/true);
  return {((grad_normalized - normalized * projection) * scale).to(x.scalar_type()), grad_weight.to(weight.scalar_type())};
}

}  // namespace

TORCH_LIBRARY(fxtest_cpp_fake, m) {
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)");
  m.def("add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor, Tensor)");
  m.def("rms_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor scale) -> (Tensor, Tensor)");
  m.def("calls() -> int", &calls);
  m.def("backward_calls() -> int", &backward_calls);
}

TORCH_LIBRARY_IMPL(fxtest_cpp_fake, CPU, m) {
  m.impl("rms_norm", &rms_norm);
  m.impl("add_rms_norm", &add_rms_norm);
  m.impl("rms_norm_backward", &rms_norm_backward);
}

TORCH_LIBRARY_IMPL(fxtest_cpp_fake, CUDA, m) {
  m.impl("rms_norm", &rms_norm);
  m.impl("add_rms_norm", &add_rms_norm);
  m.impl("rms_norm_backward", &rms_norm_backward);
}
