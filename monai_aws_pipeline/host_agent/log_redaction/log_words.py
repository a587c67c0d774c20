"""Words that the logs of imaging applications are made of, in lower case and without accents.

Here belongs nothing but the list. ``identifiers.py`` leaves these words where they stand alone, because a reader would expect them in any
log: a station called "info" or a patient called "Line" is then not told by the word, and a log without them would tell nothing.
"""

from __future__ import annotations

from typing import Final

_ENGLISH = """
a about above after again against all almost alone along already also although always am an and another any anybody anyone anything are
around as ask at away back be because been before behind being below beside best better between big both but by call called came can
cannot case cases come could day days deal did different do does doing done down during each early eight either else end enough even ever
every example few first five for form found four from full gave general get give given go goes going gone good got great had has have he
hence her here high him his hold how however if in inside instead into is it its itself just keep kind know known large last late later
least left less let like likely line lines little long look low made main make makes making man many match may maybe me mean might mine
more most much must my near need needed needs neither never new next nine no none nor not nothing now of off often old on once one only
onto open or order other others our out outside over own part parts per perhaps place please point possible present put quite rather ready
right run runs same second see seem seen seven several shall she should show side since single six small so some something soon start
state still stop such sure take taken tell ten than that the their them then there these they thing things third this those three through
thus time times to together too top toward try turn two under until up upon us use used uses using very via want was way we well went were
what when where whether which while who whole whose why will with within without word work would write year years yes yet you your zero
"""
_PROGRAMS = """
abort aborted abs absolute access accuracy action active adam adaptive add added agent alert aligned allocated allocator already ancestor
api app append appended application applications applied apply apt arch arg args argument arguments array arrays artifact artifacts assert
assertion assigned assignment async attached attempt attempts attr attribute attributes auto autocast available avg backend background
backoff backward base bash batch batchnorm bed begin benchmark beta bin binary bit bits blob block blocks body bool boost boot bound
bounds box branch break broken buffer bug build built bundle bus byte bytecode bytes cache cached calling calls cancel cancelled
candidates cap card cast catch caught cc cell center cfg chain change changed channel channels char check checked checking checkpoint
checkpoints child choose chosen circular ckpt class classes clean cleanup clear cli click client clip clone close closed closing cloud
cluster cmd code codec codelet codes collect color column columns command comment commit common compare compatible compile compiled
complete completed component components compose compress compute computed conda condition conf config configuration configure connect
connection consider const constant container contains content context continue control convert converted converting copy core coredump
corner correct corrupt corrupted cost count counter cpp cpu crash create created creates creating crop csv cublas cuda cudnn current
custom cut cycle daemon data dataloader dataset date datetime dcm deactivating dealloc debug decode decoded decoder decoding deepcopy def
default define del delay delete deleted delta denied dense deploy deprecated deprecation depth desc description deserialize destination
detach detect detected device devices dict dictionary diff difference differs digest dim dimension dims dir direct directory disable
disabled disconnected discovered disk dispatch display dist distributed dll docker docs document domain done double download driver drop
dropout dtype dump duplicate duration dynamic dynamo early echo edge edit einsum elapsed element elements email empty enable enabled
encode encoded encoder encoding endpoint engine enough ensemble ensure entity entries entry enum env environment epoch equal equality err
errno error errors escape established eval evaluate event events exc exceeded except exception exceptions excluded exe exec executable
execute executed executing execution executor exhausted exist exists exit exited expect expected explicitly export exr extend extension
external extra extract extracted fail failed failing failure failures fallback false fast fatal fault feature features fetch field fields
file filename files fill filter final finally find finish finished fit fix flag flags flatten flip float flow flush flushed fold folder
following font force fork format forward found fraction fragment frame frames free freeze frequency function functions future futures
gather gb gen generate generated generator get gib gif git global gpu gpus grad gradients graph grid group guard guess gxf gz half hand
handle handler hang happened hash head header headers heap help hex hidden hint hit holoscan home hook host hpp html hub id identifier
idle ids ignore ignored ignoring illegal image images immutable implementation implicit import imported include inconsistent incorrect
index indexes indices inductor infer inference inferer inferred inferring infinite info information inherit ini init initial
initialization initialize initialized initializing inner input inputs insert inspect install instance instances instruction insufficient
int integer intensities intensity interface internal interp interrupt interrupted invalid invert io ipc issue item items iter iteration
iterations java jit job join jpeg jpg js json kernel key keyerror keys keyword kill killed kwargs label labels lambda lang launch launched
layer layers layout lazy leave legacy len length level lib library libs limit limits link linux list listed listening listing lite load
loaded loader loading local location lock locked log logdir logger logging logic logit logits logs lookup loop loss map mapped mapping
mark mask masks match matched matching max maximum maybe mb md mean measure measurement measurements medium mem memory merge merged mesh
message messages meta metadata method metric metrics mha mib middle min minimum minor minute minutes mismatch missing mixed mkdir mm mmap
mock mod mode model models module modules monai monitor mount mounted move mps ms msg multi multiple mutable mutex name named names
namespace nan native nccl ndarray nested net network nib nibabel nii node nodes non nonzero norm normal normalize notice np npz nrrd null
num number numbers numpy nvidia obj object objects obsolete obtained occurred occurs off offset ok ones onnx onnxruntime op opened opening
operation operations operator operators optimizer option optional options ordered orientation origin original os outer output outputs
overflow overlap overlay override package pad padding page panic parallel param parameter parameters parent parse parsed parser parsing
partial pass passed patch path paths pattern pause pdf pending percent perform performance period permission permute persist persistent
phase pickle pid ping pinned pip pipe pipeline pixel pixels plain plan plane plot plugin ply png pod pointer pointing polling pool pop
populate port ports position positive post postprocess power pre precision pred predict predicted prediction prefer prefetch prefix
prepare preprocess preprocessing previous primary print printed printing priority private prob probability probe problem process processed
processes processing processor product profile program progress project promote prop propagate properties property protocol provided proxy
pt pth public pull push py pyc pydantic pydicom python pytorch quantile query queue queued quick quiet quit raise raised ram random range
rank rate ratio raw reach reached read reader reading ready reason rebuild receive received recommended record recover recursion recursive
reduce reentrant ref refer reference refused region register registered registry regular reject rejected relative release reload relu
remaining remove removed rename render replace report repository request requested require required requires resample resampled rescale
reset reshape resize resolution resolve resolved resource resources response rest restart restored result results resume retry retrying
return returned returning returns rgb root rotate rounded route routine row rows rpc rule rules runner running runtime safe sample samples
sampling save saved saver saving scalar scale scaled scan scheduler schema scope score scratch script scripts search searching seconds
secs section seed segfault segment segments select selected selecting selection selector selects self send sensor sent sequence sequential
serial serialize serialized series server service session set sets setting settings setup sh sha shape shapes share shared shell shift
short shown shutdown shutting sig sigmoid sign signal silent simd simple singleton site size sizes skip skipped skipping skips sleep slice
slices slide sliding slot slow slower slurm smooth so socket soft softmax software sort source space spacing spatial spawn spawned spec
special specified specify split squeeze stack stage stale standard started starting static status std stderr stdin stdout step steps stl
stopped stopping storage store stored storing str stream strict strided string strip struct structure style sub subject submodule
subprocess succeeded success successful successfully suffix sum summary super support supported supports suppressed svg swap switch
switching symbol sync syntax sys system table tag tags tar target task tasks temp temporary tensor tensorflow tensorrt tensors term
terminated terminating test testing text thread threads threshold throw tick timeout timer timestamp tmp token tokenizer tolerance toml
torch torchscript total trace traceback traced track train trained training transfer transform transforms transpose treated tree trigger
trim true truncate truncated truth ts tuple txt type types typing ui uid uint unable uncaught unchanged undefined unexpected uninitialized
union unique unit units unknown unless unlink unloaded unpack unpickling unsqueeze unsupported unused unwrap update updated updating
upload uploading upper upsample uri url usage user users usually utf util utils uuid valid validate validation value values var variable
vec vector vectorized verbose verify version versions view virtual visible visit void volume volumes vram vtk wait waiting warmed warmup
warn warning warnings watch watchdog weak web weight weights wheel whl width window windows worker workers workflow worth wrapper writable
writer writes writing written wrong xml yaml yml zeros zip zlib zoom
"""
_IMAGING = """
abdomen abdominal accession acq acquisition adc adult ae age anatomy angio angiography ankle anon anonymized anonymous aorta ap arm
arterial artery as atlas axial b birth bladder blood bone born brain breast bval bvec cardiac cardio carotid cavity cell cerebral cervical
chest child clinic cm coil colon computed contrast cor coronal coronary cr cs csf ct cta da deg delayed department derived dicom dicomdir
diffusion dixon dose ds dt dti dwi dx dyn dynamic ecg echo ep epi exam examination extremity eye face fat fd female femur field fl flair
flash flip foot fov frontal fs gad gb ghz gib gradient gray gre grey half hand head heart hip hospital hour hours hr hrs hu hz id identity
institute institution is iso isotropic kb kg khz kib kidney kidneys knee kv kvp lateral left leg lesion liver lo lobe loc localiser
localizer lt lung lungs magnitude male mammography manufacturer mas mb medical mev mgy mhz mib min mins mip ml mm modality monochrome
motion mpr mprage mr mra mri mrn ms muscle name native neck nerve neuro neutral nm ns number ob oblique od of ol oncology operator organ
ot ow pa pancreas pathology patient patients pediatric pelvic pelvis person pet phantom physician pn pos position prone prostate protocol
proton pt pulmonary px radiation radiology recon reconstruction region report resonance right routine rt sag sagittal sc scan scanner
scanogram scapula scout sec secs seg segmentation segmentations sequence series sex sh shoulder sinus skull sl slab slice slices soft
space spin spine spleen splenic sq sr ss st stack station stir stomach structure studies study supine sv swi t tb te thick thigh thin
thoracic thorax thyroid ti tissue tm tof torso tr tra transverse trunk tse tumor tumour turbo uc ui ul ultrasound um un undefined
unenhanced unspecified upper ur us ut uterus uv vascular vein venous vertebra vessel vibe view vol volume volumetric voxel voxels vr wb
weighted whole wrist xa xray yrs
"""
_TITLES = """
abu al apr april aug august ben bin da das de dec december del den der di do doctor dos dr du el feb february fri friday ibn ii iii iv jan
january jr jul july jun june la le mar march may md miss mon monday mr mrs ms nov november oct october phd prof rn sat saturday sep sept
september sir sr sun sunday ter thu thursday tue tuesday van von wed wednesday zu zur
"""

LOG_WORDS: Final = frozenset(" ".join((_ENGLISH, _PROGRAMS, _IMAGING, _TITLES)).split())
