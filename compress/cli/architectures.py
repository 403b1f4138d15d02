"""Names of the networks that can be built new. Imports no Keras."""

BOTTLENECKS = {f"ResNet{depth}": depth for depth in (50, 101, 152)}  # of model.resnet, as in keras.applications
BASIC = {f"resnet{depth}": depth for depth in (20, 32, 44, 56, 110)}  # of model.cifar_resnet
KERAS = {  # constructors of keras.applications: what their preprocess_input does, 'inside' where a layer does it
    **{f"ConvNeXt{size}": "inside" for size in ("Tiny", "Small", "Base", "Large", "XLarge")},
    **{f"DenseNet{depth}": "torch" for depth in (121, 169, 201)},
    **{f"EfficientNetB{number}": "inside" for number in range(8)},
    **{f"EfficientNetV2{size}": "inside" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")},
    **dict.fromkeys(("InceptionResNetV2", "InceptionV3", "MobileNet", "MobileNetV2", "Xception"), "tf"),
    **dict.fromkeys(("MobileNetV3Large", "MobileNetV3Small"), "inside"),
    **dict.fromkeys(("NASNetLarge", "NASNetMobile"), "tf"),
    **{f"ResNet{depth}V2": "tf" for depth in (50, 101, 152)},
    **dict.fromkeys(("VGG16", "VGG19"), "caffe"),
}
NAMES = (*BOTTLENECKS, *BASIC, *KERAS)
# the fewest pixels a side, of those that don't take 32: their convolutions without padding would leave no position
LEAST = {"InceptionResNetV2": 75, "InceptionV3": 75}
PRETRAINED_LEAST = LEAST | {"Xception": 71}  # what Keras asks for where it loads ImageNet's weights
# kernel and stride of the first convolution of ResNet50, 101 and 152, the largest first; a max-pool follows the first
STEMS = {"imagenet": (7, 2), "half": (5, 2), "cifar": (3, 1)}
